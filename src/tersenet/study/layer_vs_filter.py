"""Filters or whole layers? Networks pruned by chance, timed and recovered side by side.

The smoke test of Elkerdawy, Elhoushi, Singh, Zhang, Ray, "To Filter Prune, or to Layer Prune,
That Is the Question", ACCV 2020, arXiv:2007.05667, and its claims, each with a verdict.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from tersenet.core.files import load_weights
from tersenet.core.findings import Findings
from tersenet.core.types import Deployment, Tick
from tersenet.errors import MeasureError
from tersenet.export import to_onnx
from tersenet.graph import macs
from tersenet.measure import describe_device
from tersenet.recipe import TrainingRecipe, read_recipe, read_training
from tersenet.study.folder import open_study
from tersenet.study.latency_bins import latency_bins
from tersenet.study.layer_bench import LayerBench
from tersenet.study.layer_charts import accuracies, bin_table, boxes, model_table, scatter
from tersenet.study.layer_claims import at_one_latency, verdicts
from tersenet.study.one_latency import CRITERIA, matched, pair, pair_table
from tersenet.study.pareto import pareto_chart, pareto_table
from tersenet.study.published_layers import published_table
from tersenet.study.random_models import KINDS, Kind, RandomModels
from tersenet.study.subject import digests

__all__ = ["layer_vs_filter"]

_DRAWS: Final = (
    "Filters: of each layer a share stays that is uniform between 30 % and all, so that over many "
    "layers the totals come near their mean. Layers: one to all that can go, each number as likely."
)
_LAYERS_GONE: Final = (0.25, 0.5, 0.75)
"""Shares of the layers that can go, where both are pruned by one criterion."""


def layer_vs_filter(
    recipe: Path,
    *,
    folder: Path,
    models: int = 100,
    batches: Sequence[int] = (1, 8, 64),
    steps: int = 40,
    iterations: int = 30,
    seed: int = 0,
    criteria: Sequence[str] = tuple(CRITERIA),
    beside: Sequence[Path] = (),
    tick: Tick = lambda text, done, total: None,
) -> Findings:
    """Measures `models` networks pruned by filters and as many by layers, all drawn by chance.

    Each is written as ONNX and timed in turns with the network as it came, then trained for
    `steps` batches and scored. Then layers and filters are judged by the same criteria, with as
    many filters gone as make both equally fast. Goes on where it was stopped, after each model.

    Args:
        recipe: a recipe that names network, weights, data and runtime; its steps are not used.
        folder: of the study.
        models: of each kind.
        batches: sizes at which latency is measured.
        steps: of training, to recover.
        iterations: least number of latency samples per model and batch size.
        seed: of the draws.
        criteria: by which layers and filters are compared at one latency: l1, bn-scale, taylor.
        beside: training recipes of networks designed by hand, trained on the same data, to stand
            in the plot of accuracy against latency.
        tick: told of the progress.

    Raises:
        TersenetError: if recipe, data, network or folder cannot be used.
    """
    if models < 1 or steps < 0 or not batches or min(batches) < 1:
        raise MeasureError(
            f"{models} models, batch sizes {list(batches)} and {steps} steps measure nothing: take "
            "at least one of each, and no fewer than 0 steps."
        )
    if unknown := [one for one in criteria if one not in CRITERIA]:
        raise MeasureError(
            f"'{unknown[0]}' is no criterion that layers and filters are compared by: take of "
            f"{', '.join(CRITERIA)}."
        )
    designs = [_design(path) for path in beside]
    read = read_recipe(recipe)
    assert read.weights is not None
    deployment = Deployment(
        runtime=read.deployment.runtime,
        threads=read.deployment.threads,
        batches=tuple(batches),
        iterations=iterations,
        seconds=0.2,
    )
    settings = {
        "model": read.model.plain() if read.model else None,
        "weights": read.weights.name,
        "data": read.data.plain() if read.data else None,
        "deployment": [deployment.runtime, deployment.threads, list(batches), iterations],
        "models": models,
        "steps": steps,
        "seed": seed,
        "criteria": list(criteria),
        "beside": [one.output.name for one in designs],
    }
    points: dict[Kind, list[Mapping[str, Any]]] = {kind: [] for kind in KINDS}
    task, model = read.build_task(), read.build_model().eval()
    load_weights(model, read.weights)
    with (
        open_study(
            folder, name="layer-vs-filter", settings=settings, of=digests(model, task)
        ) as kept,
        tempfile.TemporaryDirectory() as aside,
    ):
        subject = task.subject(model, deployment=deployment)
        example = subject.example
        whole = Path(aside) / "whole.onnx"
        to_onnx(model, example, whole)
        bench = LayerBench(
            task=task,
            example=example,
            deployment=deployment,
            steps=steps,
            whole=whole,
            whole_macs=macs(model, example),
        )
        drawn = RandomModels(model, example, seed=seed)
        control = kept.point("control", lambda: bench.times(whole))
        limits: dict[Kind, float] = {
            kind: kept.point(
                f"furthest {kind}", lambda kind=kind: bench.timed(drawn.furthest(kind))[0][0]
            )
            for kind in KINDS
        }
        score = kept.point("original", lambda: task.quality(model).value)
        for number in range(models):
            for place, kind in enumerate(KINDS):
                tick(f"model {number + 1}, {kind}s pruned", 2 * number + place, 2 * models)
                point = kept.point(
                    f"{kind} {number}",
                    lambda kind=kind, number=number: bench.measured(drawn.draw(kind, number)),
                )
                points[kind].append(point)
        pairs = []
        for criterion in criteria:
            for remove in sorted({max(1, round(share * drawn.layers)) for share in _LAYERS_GONE}):
                tick(f"layers and filters by {criterion}", 2 * models, 2 * models)
                measure = partial(pair, criterion, remove, subject, bench)
                pairs.append(kept.point(f"{criterion} without {remove}", measure))
        designed = [
            kept.point(f"beside {one.name}", partial(_designed, one, bench)) for one in designs
        ]
    return _findings(
        points, limits, control, score, pairs, designed, batches=batches, settings=settings
    )


def _design(path: Path) -> TrainingRecipe:
    """Returns the recipe of a network designed by hand, which must be trained by now."""
    recipe = read_training(path)
    if not recipe.output.exists():
        raise MeasureError(
            f"{recipe.output}, the weights of {path}, do not exist: run 'tersenet train {path}' "
            "first, or leave it out."
        )
    return recipe


def _designed(recipe: TrainingRecipe, bench: LayerBench) -> dict[str, Any]:
    """Returns what is measured of a trained network, left as it is."""
    model = recipe.model.build().eval()
    load_weights(model, recipe.output)
    return {"name": recipe.name, **replace(bench, steps=0).measured(model)}


def _findings(
    points: Mapping[Kind, Sequence[Mapping[str, Any]]],
    limits: Mapping[Kind, float],
    control: Sequence[Sequence[float]],
    score: float,
    pairs: Sequence[Mapping[str, Any]],
    designed: Sequence[Mapping[str, Any]],
    *,
    batches: Sequence[int],
    settings: Mapping[str, Any],
) -> Findings:
    bins = latency_bins(points)
    device = describe_device()
    runtime, threads, _, iterations = settings["deployment"]
    judged = [one for one in pairs if "reason" not in one]
    networks = {
        **points,
        "layer, by a criterion": [one["layer"] for one in judged],
        "filter, by a criterion": [one["filter"] for one in judged],
        "designed by hand": designed,
    }
    return Findings(
        name="layer-vs-filter",
        question="Is it better to remove filters, or whole layers?",
        verdicts=(
            *verdicts(points, bins, limits, batches=batches),
            *((at_one_latency(matched(pairs), len(judged)),) if pairs else ()),
        ),
        charts=(
            boxes(points, batches),
            scatter(points, batches),
            accuracies(bins),
            pareto_chart(networks),
        ),
        tables=(
            *((pair_table(pairs),) if judged else ()),
            pareto_table(networks),
            model_table(points, batches),
            bin_table(bins),
            published_table(),
        ),
        conditions={
            "processor": device.cpu,
            "network": _said(settings["model"]),
            "data": _said(settings["data"]),
            "runtime": f"{runtime}, {threads} thread{'s' if threads > 1 else ''}",
            "latency samples": f"{iterations} or more at each batch size",
            "models of each kind": str(settings["models"]),
            "recovery": f"{settings['steps']} batches of training",
            "seed": str(settings["seed"]),
            "network as it came": f"{100 * score:.2f} % right",
        },
        notes=(
            "The network timed against its own copy: latency reduction of "
            + ", ".join(
                f"{part[0]:+.1f} % at batch {batch}"
                for batch, part in zip(batches, control, strict=True)
            )
            + ". Differences of that size mean nothing.",
            _DRAWS,
            *sorted(
                {f"By {one['criterion']}: {one['reason']}" for one in pairs if "reason" in one}
            ),
        ),
    )


def _said(section: Mapping[str, Any] | None) -> str:
    """Returns a section of a recipe as a person reads it: 'resnet, depth 20'."""
    return "; ".join(
        ", ".join(
            (name, *(f"{key} {value}" for key, value in options.items() if value is not None))
        )
        for name, options in (section or {}).items()
    )
