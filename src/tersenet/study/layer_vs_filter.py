"""Filters or whole layers? Networks pruned by chance, timed and recovered side by side.

The smoke test of Elkerdawy, Elhoushi, Singh, Zhang, Ray, "To Filter Prune, or to Layer Prune,
That Is the Question", ACCV 2020, arXiv:2007.05667, and its claims, each with a verdict.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.files import load_weights
from tersenet.core.findings import Findings
from tersenet.core.types import Deployment
from tersenet.errors import MeasureError
from tersenet.export import to_onnx
from tersenet.graph import macs
from tersenet.measure import compare, describe_device
from tersenet.recipe import read_recipe
from tersenet.study.folder import open_study
from tersenet.study.latency_bins import latency_bins, latency_reduction
from tersenet.study.layer_charts import accuracies, bin_table, boxes, model_table, scatter
from tersenet.study.layer_claims import verdicts
from tersenet.study.random_models import KINDS, Kind, RandomModels
from tersenet.train import Classification, TrainingOptions, fit

__all__ = ["layer_vs_filter"]

_DRAWS: Final = (
    "Filters: of each layer a share stays that is uniform between 30 % and all, so that over many "
    "layers the totals come near their mean. Layers: one to all that can go, each number as likely."
)
_RATE: Final = 0.02
"""Learning rate of the recovery, falling to zero."""


@final
@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What every model is measured with."""

    task: Classification
    example: tuple[Tensor, ...]
    deployment: Deployment
    steps: int
    whole: Path
    """The file of the network as it came."""
    whole_macs: int


def layer_vs_filter(
    recipe: Path,
    *,
    folder: Path,
    models: int = 100,
    batches: Sequence[int] = (1, 8, 64),
    steps: int = 40,
    iterations: int = 30,
    seed: int = 0,
    tick: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Findings:
    """Measures `models` networks pruned by filters and as many by layers, all drawn by chance.

    Each is written as ONNX and timed in turns with the network as it came, then trained for
    `steps` batches and scored. Goes on where it was stopped, after each model.

    Args:
        recipe: a recipe that names network, weights, data and runtime; its steps are not used.
        folder: of the study.
        models: of each kind.
        batches: sizes at which latency is measured.
        steps: of training, to recover.
        iterations: least number of latency samples per model and batch size.
        seed: of the draws.
        tick: told of the progress.

    Raises:
        TersenetError: if recipe, data, network or folder cannot be used.
    """
    if models < 1 or steps < 0 or not batches or min(batches) < 1:
        raise MeasureError(
            f"{models} models, batch sizes {list(batches)} and {steps} steps measure nothing: take "
            "at least one of each, and no fewer than 0 steps."
        )
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
    }
    points: dict[Kind, list[Mapping[str, Any]]] = {kind: [] for kind in KINDS}
    with (
        open_study(folder, name="layer-vs-filter", settings=settings) as kept,
        tempfile.TemporaryDirectory() as aside,
    ):
        task, model = read.build_task(), read.build_model().eval()
        load_weights(model, read.weights)
        example = task.subject(model).example
        whole = Path(aside) / "whole.onnx"
        to_onnx(model, example, whole)
        bench = _Bench(
            task=task,
            example=example,
            deployment=deployment,
            steps=steps,
            whole=whole,
            whole_macs=macs(model, example),
        )
        drawn = RandomModels(model, example, seed=seed)
        control = kept.point("control", lambda: _times(bench, whole))
        limits: dict[Kind, float] = {
            kind: kept.point(f"furthest {kind}", lambda kind=kind: _limit(bench, drawn, kind))
            for kind in KINDS
        }
        score = kept.point("original", lambda: task.quality(model).value)
        for number in range(models):
            for place, kind in enumerate(KINDS):
                tick(f"model {number + 1}, {kind}s pruned", 2 * number + place, 2 * models)
                point = kept.point(
                    f"{kind} {number}",
                    lambda kind=kind, number=number: _measured(bench, drawn.draw(kind, number)),
                )
                points[kind].append(point)
    return _findings(points, limits, control, score, batches=batches, settings=settings)


def _measured(bench: _Bench, model: nn.Module) -> dict[str, Any]:
    reductions = _timed(bench, model)
    removed = 100 * (1 - macs(model, bench.example) / bench.whole_macs)

    def objective(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(model(inputs), targets)

    if bench.steps:
        stream = bench.task.stream
        epochs = bench.steps / stream.steps_per_epoch
        fit(model, stream, objective, TrainingOptions(epochs=epochs, learning_rate=_RATE))
    accuracy = bench.task.quality(model.eval()).value
    return {"reduction": reductions, "macs_removed": removed, "accuracy": 100 * accuracy}


def _limit(bench: _Bench, drawn: RandomModels, kind: Kind) -> float:
    """Returns the latency reduction at the first batch size of the furthest that can be gone."""
    return _timed(bench, drawn.furthest(kind))[0][0]


def _timed(bench: _Bench, model: nn.Module) -> list[list[float]]:
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / "model.onnx"
        to_onnx(model.eval(), bench.example, path)
        return _times(bench, path)


def _times(bench: _Bench, path: Path) -> list[list[float]]:
    """Returns for each batch size the latency reduction in %, and its interval's ends."""
    found = compare(
        path,
        bench.whole,
        deployment=bench.deployment,
        iterations=bench.deployment.iterations,
        seconds=bench.deployment.seconds,
    )
    return [
        [latency_reduction(1 / ratio, 1.0) for ratio in (one.ratio, one.low, one.high)]
        for one in found
    ]


def _findings(
    points: Mapping[Kind, Sequence[Mapping[str, Any]]],
    limits: Mapping[Kind, float],
    control: Sequence[Sequence[float]],
    score: float,
    *,
    batches: Sequence[int],
    settings: Mapping[str, Any],
) -> Findings:
    bins = latency_bins(points)
    device = describe_device()
    return Findings(
        name="layer-vs-filter",
        question="Is it better to remove filters, or whole layers?",
        verdicts=verdicts(points, bins, limits, batches=batches),
        charts=(boxes(points, batches), scatter(points, batches), accuracies(bins)),
        tables=(model_table(points, batches), bin_table(bins)),
        conditions={
            "processor": device.cpu,
            "network": str(settings["model"]),
            "data": str(settings["data"]),
            "runtime, threads, batch sizes, samples": str(settings["deployment"]),
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
        ),
    )
