"""Filters or whole layers? Networks pruned by chance, timed and recovered side by side.

The smoke test of Elkerdawy, Elhoushi, Singh, Zhang, Ray, "To Filter Prune, or to Layer Prune,
That Is the Question", ACCV 2020, arXiv:2007.05667, and its claims.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, final

from tersenet.core.files import load_weights
from tersenet.core.findings import Findings
from tersenet.core.types import Deployment, Tick, no_tick
from tersenet.errors import MeasureError
from tersenet.export import to_onnx
from tersenet.graph import macs
from tersenet.measure import describe_device
from tersenet.recipe import Recipe, TrainingRecipe, read_recipe, read_training
from tersenet.study.folder import StudyFolder, open_study
from tersenet.study.layer_vs_filter.bench import LayerBench
from tersenet.study.layer_vs_filter.bins import gather_bins
from tersenet.study.layer_vs_filter.charts import (
    chart_accuracies,
    chart_reductions,
    chart_work,
    table_bins,
    table_models,
)
from tersenet.study.layer_vs_filter.claims import claim_at_one_latency, claims
from tersenet.study.layer_vs_filter.one_latency import (
    CRITERIA,
    keep_matched,
    measure_pair,
    table_pairs,
)
from tersenet.study.layer_vs_filter.pareto import chart_pareto, table_pareto
from tersenet.study.layer_vs_filter.published import table_published
from tersenet.study.layer_vs_filter.random_models import KINDS, Kind, RandomModels
from tersenet.study.registry import STUDIES
from tersenet.study.subject import digests

__all__ = ["study_layer_vs_filter"]

_DRAWS: Final = (
    "Filters: of each layer a share stays that is uniform between 30 % and all, so that over many "
    "layers the totals come near their mean. Layers: one to all that can go, each number as likely."
)
_LAYERS_GONE: Final = (0.25, 0.5, 0.75)
"""Shares of the layers that can go, where both are pruned by one criterion."""


@final
@dataclass(frozen=True, kw_only=True)
class _Measured:
    """All that was measured."""

    control: list[list[float]]
    """What `LayerBench.time_file` says of the network against its own copy."""
    limits: Mapping[Kind, float]
    """The most that each kind can save at the first batch size, in %."""
    score: float
    """Share of test images that the network as it came answers rightly."""
    points: Mapping[Kind, list[dict[str, Any]]]
    pairs: list[dict[str, Any]]
    designed: list[dict[str, Any]]


@STUDIES.register("layer-vs-filter")
def study_layer_vs_filter(
    recipe: Path = Path("recipes/layerprune.yaml"),
    *,
    folder: Path,
    models: int = 100,
    batches: tuple[int, ...] = (1, 8, 64),
    steps: int = 40,
    iterations: int = 30,
    seed: int = 0,
    criteria: tuple[str, ...] = tuple(CRITERIA),
    beside: tuple[Path, ...] = (),
    tick: Tick = no_tick,
) -> Findings:
    """Remove filters, or whole layers? Networks pruned by chance, timed and recovered.

    Each is written as ONNX and timed in turns with the network as it came, then trained for
    `steps` batches and scored. Then layers and filters are judged by the same criteria, with as
    many filters gone as make both equally fast. Goes on where it was stopped, after each model.

    Args:
        recipe: A recipe that names network, weights, data and runtime; its steps are not used.
        folder: Folder of the study.
        models: Networks of each kind.
        batches: Batch sizes at which latency is measured.
        steps: Batches of training, to recover.
        iterations: Least number of latency samples per model and batch size.
        seed: Of the draws.
        criteria: By which layers and filters are compared at one latency: l1, bn-scale, taylor.
        beside: Training recipes of networks designed by hand, trained on the same data, to stand
            in the plot of accuracy against latency.
        tick: Told of the progress.

    Raises:
        TersenetError: if recipe, data, network or folder cannot be used.
    """
    _check(models, batches, steps, criteria)
    designs = [_read_design(path) for path in beside]
    read = read_recipe(recipe)
    deployment = replace(read.deployment, batches=batches, iterations=iterations, seconds=0.2)
    settings = {
        "model": read.model.plain() if read.model else None,
        "weights": read.weights.name if read.weights else None,
        "data": read.data.plain() if read.data else None,
        "deployment": [deployment.runtime, deployment.threads, list(batches), iterations],
        "models": models,
        "steps": steps,
        "seed": seed,
        "criteria": list(criteria),
        "beside": [design.output.name for design in designs],
    }
    found = _measure(read, deployment, designs, settings, folder, tick)
    return _findings(found, batches=batches, settings=settings)


def _check(models: int, batches: Sequence[int], steps: int, criteria: Sequence[str]) -> None:
    if models < 1 or steps < 0 or not batches or min(batches) < 1:
        raise MeasureError(
            f"{models} models, batch sizes {list(batches)} and {steps} steps measure nothing: take "
            "at least one of each, and no fewer than 0 steps."
        )
    if unknown := [name for name in criteria if name not in CRITERIA]:
        raise MeasureError(
            f"'{unknown[0]}' is no criterion that layers and filters are compared by: take of "
            f"{', '.join(CRITERIA)}."
        )


def _measure(
    read: Recipe,
    deployment: Deployment,
    designs: Sequence[TrainingRecipe],
    settings: Mapping[str, Any],
    folder: Path,
    tick: Tick,
) -> _Measured:
    assert read.weights is not None  # a recipe with its own network names them
    task, model = read.build_task(), read.build_model().eval()
    load_weights(model, read.weights)
    subject = task.subject(model, deployment=deployment)
    with (
        open_study(
            folder, name="layer-vs-filter", settings=settings, of=digests(model, task)
        ) as study,
        tempfile.TemporaryDirectory() as aside,
    ):
        whole = Path(aside) / "whole.onnx"
        to_onnx(model, subject.example, whole)
        bench = LayerBench(
            task=task,
            example=subject.example,
            deployment=deployment,
            steps=settings["steps"],
            whole=whole,
            whole_macs=macs(model, subject.example),
        )
        drawn = RandomModels(model, subject.example, seed=settings["seed"])
        control = study.point("control", partial(bench.time_file, whole))
        limits: dict[Kind, float] = {
            kind: study.point(
                f"furthest {kind}", lambda kind=kind: bench.time(drawn.furthest(kind))[0][0]
            )
            for kind in KINDS
        }
        score = study.point("original", lambda: task.quality(model).value)
        points = _measure_draws(study, drawn, bench, settings["models"], tick)
        pairs = []
        for criterion in settings["criteria"]:
            for remove in sorted({max(1, round(share * drawn.layers)) for share in _LAYERS_GONE}):
                tick(f"layers and filters by {criterion}", 1, 1)
                measure = partial(measure_pair, criterion, remove, subject, bench)
                pairs.append(study.point(f"{criterion} without {remove}", measure))
        designed = [
            study.point(f"beside {design.name}", partial(_measure_design, design, bench))
            for design in designs
        ]
    return _Measured(
        control=control, limits=limits, score=score, points=points, pairs=pairs, designed=designed
    )


def _measure_draws(
    study: StudyFolder, drawn: RandomModels, bench: LayerBench, models: int, tick: Tick
) -> dict[Kind, list[dict[str, Any]]]:
    points: dict[Kind, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for number in range(models):
        for place, kind in enumerate(KINDS):
            tick(f"model {number + 1}, {kind}s pruned", 2 * number + place, 2 * models)
            point = study.point(
                f"{kind} {number}",
                lambda kind=kind, number=number: bench.measure(drawn.draw(kind, number)),
            )
            points[kind].append(point)
    return points


def _read_design(path: Path) -> TrainingRecipe:
    """Returns the recipe of a network designed by hand, which must be trained by now."""
    recipe = read_training(path)
    if not recipe.output.exists():
        raise MeasureError(
            f"{recipe.output}, the weights of {path}, do not exist: run 'tersenet train {path}' "
            "first, or leave it out."
        )
    return recipe


def _measure_design(recipe: TrainingRecipe, bench: LayerBench) -> dict[str, Any]:
    """Returns what is measured of a trained network, left as it is."""
    model = recipe.model.build().eval()
    load_weights(model, recipe.output)
    return {"name": recipe.name, **replace(bench, steps=0).measure(model)}


def _findings(found: _Measured, *, batches: Sequence[int], settings: Mapping[str, Any]) -> Findings:
    bins = gather_bins(found.points)
    judged = [pair for pair in found.pairs if "reason" not in pair]
    networks = {
        **found.points,
        "layer, by a criterion": [pair["layer"] for pair in judged],
        "filter, by a criterion": [pair["filter"] for pair in judged],
        "designed by hand": found.designed,
    }
    control = "latency reduction of " + ", ".join(
        f"{middle:+.1f} % at batch {batch}"
        for batch, (middle, *_) in zip(batches, found.control, strict=True)
    )
    return Findings(
        name="layer-vs-filter",
        question="Is it better to remove filters, or whole layers?",
        claims=(
            *claims(found.points, bins, found.limits, batches=batches),
            *((claim_at_one_latency(keep_matched(judged), len(judged)),) if found.pairs else ()),
        ),
        charts=(
            chart_reductions(found.points, batches),
            chart_work(found.points, batches),
            chart_accuracies(bins),
            chart_pareto(networks),
        ),
        tables=(
            *((table_pairs(judged),) if judged else ()),
            table_pareto(networks),
            table_models(found.points, batches),
            table_bins(bins),
            table_published(),
        ),
        conditions=_conditions(settings, found.score),
        notes=(
            f"The network timed against its own copy: {control}. Such differences mean nothing.",
            _DRAWS,
            *sorted(
                {
                    f"By {pair['criterion']}: {pair['reason']}"
                    for pair in found.pairs
                    if "reason" in pair
                }
            ),
        ),
    )


def _conditions(settings: Mapping[str, Any], score: float) -> dict[str, str]:
    runtime, threads, _, iterations = settings["deployment"]
    return {
        "processor": describe_device().cpu,
        "network": _in_words(settings["model"]),
        "data": _in_words(settings["data"]),
        "runtime": f"{runtime}, {threads} thread{'s' if threads > 1 else ''}",
        "latency samples": f"{iterations} or more at each batch size",
        "models of each kind": str(settings["models"]),
        "recovery": f"{settings['steps']} batches of training",
        "seed": str(settings["seed"]),
        "network as it came": f"{100 * score:.2f} % right",
    }


def _in_words(section: Mapping[str, Any] | None) -> str:
    """Returns a section of a recipe as a person reads it: 'resnet, depth 20'."""
    return "; ".join(
        ", ".join(
            (name, *(f"{key} {value}" for key, value in options.items() if value is not None))
        )
        for name, options in (section or {}).items()
    )
