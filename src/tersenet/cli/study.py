"""`tersenet study NAME`: one thin command per study. Killed and run again, each goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from cyclopts import App, Parameter

from tersenet.core.findings import Findings

__all__ = ["study"]

MET: Final = 0

study = App(
    name="study",
    help="Answer a question by many measurements, resumably, with a verdict and a page of plots.",
    result_action="return_value",
    default_parameter=Parameter(negative=()),
)


def conducted(
    name: str,
    run: Callable[[Path, Callable[[str, int, int], None]], Findings],
    *,
    out: Path | None,
    json: bool,
) -> int:
    """Runs a study in its folder, studies/NAME by default, and shows what it found."""
    from tersenet import api
    from tersenet.cli.progress import Live
    from tersenet.cli.show import show_findings

    folder = out or Path("studies") / name
    with Live(quiet=json) as live:
        live.begin(0, 1, f"study {name}")
        findings = api.conduct(lambda tick: run(folder, tick), folder, watch=live)
    show_findings(findings, folder, json=json)
    return MET


@study.command(name="layer-vs-filter")
def layer_vs_filter(
    *,
    recipe: Path = Path("recipes/layerprune.yaml"),
    models: int = 100,
    batches: tuple[int, ...] = (1, 8, 64),
    steps: int = 40,
    beside: tuple[Path, ...] = (),
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Remove filters, or whole layers? Networks pruned by chance, timed and recovered.

    Args:
        recipe: Names network, weights, data and runtime.
        models: Of each kind.
        batches: Batch sizes of the latency; repeat the option for several.
        steps: Batches of training to recover each network.
        beside: Training recipe of a network designed by hand, to be plotted too; repeatable.
        out: Folder of the study; by default studies/layer-vs-filter.
        json: Print one JSON object instead of text.
    """
    from tersenet.study import layer_vs_filter as run

    def conduct(folder: Path, tick: Callable[[str, int, int], None]) -> Findings:
        return run(
            recipe,
            folder=folder,
            models=models,
            batches=batches,
            steps=steps,
            beside=beside,
            tick=tick,
        )

    return conducted("layer-vs-filter", conduct, out=out, json=json)


@study.command
def sensitivity(
    recipe: Path,
    /,
    *,
    granularity: tuple[Literal["element", "filter", "channel"], ...] = (
        "element",
        "filter",
        "channel",
    ),
    images: int = 1000,
    max_drop: float = 1.0,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """How much of each layer can go? Accuracy against sparsity, one layer at a time.

    Args:
        recipe: Names network, weights and data; its steps are not used.
        granularity: What is zeroed together; repeat the option for several.
        images: Of the training data, to judge by.
        max_drop: Points of accuracy that a layer's rate may cost on its own.
        out: Folder of the study; by default studies/sensitivity.
        json: Print one JSON object instead of text.
    """
    from tersenet.study.sensitivity import sensitivity_of_recipe as run

    def conduct(folder: Path, tick: Callable[[str, int, int], None]) -> Findings:
        return run(
            recipe,
            folder=folder,
            granularities=granularity,
            images=images,
            max_drop=max_drop,
            tick=tick,
        )

    return conducted("sensitivity", conduct, out=out, json=json)


@study.command
def formats(*, out: Path | None = None, json: bool = False) -> int:
    """Dense, CSR, CER, CSER: storage, operations, time and modelled energy of four networks.

    Args:
        out: Folder of the study; by default studies/formats.
        json: Print one JSON object instead of text.
    """

    def conduct(folder: Path, tick: Callable[[str, int, int], None]) -> Findings:
        from tersenet.study.formats_chart import formats_chart

        return formats_chart(folder=folder, tick=tick)

    return conducted("formats", conduct, out=out, json=json)


@study.command(name="unstructured-speed")
def unstructured_speed(*, seconds: float = 0.5, out: Path | None = None, json: bool = False) -> int:
    """Is unstructured sparsity slower without an accelerator? Dense, CSR and ours in turns.

    Args:
        seconds: For each of the five or so candidates of each of the 45 points.
        out: Folder of the study; by default studies/unstructured-speed.
        json: Print one JSON object instead of text.
    """

    def conduct(folder: Path, tick: Callable[[str, int, int], None]) -> Findings:
        from tersenet.study.unstructured_speed import unstructured_speed as run

        return run(folder=folder, tick=tick, seconds=seconds)

    return conducted("unstructured-speed", conduct, out=out, json=json)


@study.command(name="low-rank")
def low_rank(*, seconds: float = 0.3, out: Path | None = None, json: bool = False) -> int:
    """Do factored layers keep what their operations promise? Theoretical and measured speed-up.

    Args:
        seconds: For each of the six or so chains of each of the 48 points.
        out: Folder of the study; by default studies/low-rank.
        json: Print one JSON object instead of text.
    """

    def conduct(folder: Path, tick: Callable[[str, int, int], None]) -> Findings:
        from tersenet.study.low_rank import low_rank as run

        return run(folder=folder, tick=tick, seconds=seconds)

    return conducted("low-rank", conduct, out=out, json=json)


@study.command(name="staged-low-rank")
def staged_low_rank(
    recipe: Path,
    /,
    *,
    times: float = 6.0,
    epochs: float = 0.25,
    seeds: int = 3,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Is low rank better reached in two rounds of factoring and training than in one?

    Args:
        recipe: Names network, weights and data; its steps are not used.
        times: Fewer parameters in each factored layer at the end.
        epochs: Of each round's training.
        seeds: Orders of the training data.
        out: Folder of the study; by default studies/staged-low-rank.
        json: Print one JSON object instead of text.
    """

    def conduct(folder: Path, tick: Callable[[str, int, int], None]) -> Findings:
        from tersenet.study.staged_low_rank import staged_low_rank_of_recipe as run

        return run(recipe, folder=folder, times=times, epochs=epochs, seeds=seeds, tick=tick)

    return conducted("staged-low-rank", conduct, out=out, json=json)


@study.command
def bits(recipe: Path, /, *, images: int = 256, out: Path | None = None, json: bool = False) -> int:
    """How many bits does each layer need? Divergence of the answers, alone and together.

    Args:
        recipe: Names network, weights and data; its steps are not used.
        images: Of the training data, to measure on, and as many others to judge by.
        out: Folder of the study; by default studies/bits.
        json: Print one JSON object instead of text.
    """

    def conduct(folder: Path, tick: Callable[[str, int, int], None]) -> Findings:
        from tersenet.study.bits import bits_of_recipe as run

        return run(recipe, folder=folder, images=images, tick=tick)

    return conducted("bits", conduct, out=out, json=json)
