"""`tersenet study NAME`: one thin command per study. Killed and run again, each goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

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
        findings = api.conduct(lambda: run(folder, live.tick), folder)
    show_findings(findings, folder, json=json)
    return MET


@study.command(name="layer-vs-filter")
def layer_vs_filter(
    *,
    recipe: Path = Path("recipes/layerprune.yaml"),
    models: int = 100,
    batches: tuple[int, ...] = (1, 8, 64),
    steps: int = 40,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Remove filters, or whole layers? Networks pruned by chance, timed and recovered.

    Args:
        recipe: Names network, weights, data and runtime.
        models: Of each kind.
        batches: Batch sizes of the latency; repeat the option for several.
        steps: Batches of training to recover each network.
        out: Folder of the study; by default studies/layer-vs-filter.
        json: Print one JSON object instead of text.
    """
    from tersenet.study import layer_vs_filter as run

    def conduct(folder: Path, tick: Callable[[str, int, int], None]) -> Findings:
        return run(recipe, folder=folder, models=models, batches=batches, steps=steps, tick=tick)

    return conducted("layer-vs-filter", conduct, out=out, json=json)
