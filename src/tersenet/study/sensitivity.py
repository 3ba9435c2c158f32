"""How much of each layer can go? Accuracy against sparsity, layer by layer, without retraining.

Li, Kadav, Durdanovic, Samet, Graf, 2016, arXiv:1608.08710, section 3.2; Han, Pool, Tran, Dally,
2015, arXiv:1506.02626, figure 6. Judged on training images, so that rates set by it leave the
test images unseen.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

import yaml
from torch import nn

from tersenet.core.findings import Claim, Findings, LineChart, Series, Table
from tersenet.core.types import Score, Tick, no_tick
from tersenet.errors import MeasureError
from tersenet.graph import Site, trace
from tersenet.graph.reading import evaluating
from tersenet.prune.masks.allocation import largest_below
from tersenet.prune.masks.sensitivity import LEVELS, zeroed
from tersenet.prune.masks.units import Units, cut
from tersenet.study.allocations import Allocations, compare_allocations
from tersenet.study.folder import StudyFolder, open_study
from tersenet.study.registry import STUDIES
from tersenet.study.subject import digests
from tersenet.train import Classification, TopOne

__all__ = ["GRANULARITIES", "Granularity", "study_sensitivity"]

Granularity: TypeAlias = Literal["element", "filter", "channel"]
GRANULARITIES: Final[tuple[Granularity, ...]] = ("element", "filter", "channel")


@final
@dataclass(frozen=True, kw_only=True)
class Point:
    """One layer at one sparsity."""

    granularity: str
    site: str
    sparsity: float
    accuracy: float
    """Share of images answered rightly, in per cent."""
    drop: float
    """Points of accuracy below the dense network's."""
    low: float
    """Lower end of the drop's 95 % interval, paired over the images."""
    high: float
    """Upper end of that interval."""


@STUDIES.register("sensitivity")
def study_sensitivity(
    model: nn.Module,
    task: Classification,
    *,
    folder: Path,
    granularity: tuple[Granularity, ...] = GRANULARITIES,
    images: int = 1000,
    max_drop: float = 1.0,
    tick: Tick = no_tick,
) -> Findings:
    """How much of each layer can go? Accuracy against sparsity, one layer at a time.

    The weights of least magnitude are zeroed, from none to 0.95 of them, singly or by filters or
    input channels; nothing is retrained. Goes on where it was stopped, after each point.

    Args:
        model: A trained network; it is not changed.
        task: Its data. The first training images judge the layers, test images what follows.
        folder: Folder of the study.
        granularity: What is zeroed together; one or several.
        images: Images to judge by.
        max_drop: Points of accuracy that a layer's rate may cost on its own.
        tick: Told of the progress.

    Raises:
        MeasureError: if there is nothing to judge by.
        StructureError: if the network cannot be read as a graph.
        RunError: if the folder holds another study, or cannot be written.
    """
    if images < 1 or max_drop < 0:
        raise MeasureError(
            f"images is {images} and max_drop {max_drop:g}: give at least one image, and a drop of "
            "0 or more points."
        )
    model = copy.deepcopy(model).eval()
    sites = trace(model, task.subject(model).example).sites
    judge = TopOne(task.train.head(images))
    settings = {"granularities": list(granularity), "images": images}
    of = digests(model, task)
    with open_study(folder, name="sensitivity", settings=settings, of=of) as study:
        points = _points(study, model, sites, judge, granularity, tick)
        allocations = None
        if "element" in granularity:
            curves = _curves([point for point in points if point.granularity == "element"])
            sizes = {units.site: units.weights for units in cut(model, sites, "element")[0]}
            allocations = compare_allocations(study, model, task, curves, sizes, images, tick)
    return _findings(points, allocations, max_drop, judge.images.name)


def _points(
    study: StudyFolder,
    model: nn.Module,
    sites: Sequence[Site],
    judge: TopOne,
    granularities: Sequence[Granularity],
    tick: Tick,
) -> list[Point]:
    jobs = [(name, units) for name in granularities for units in cut(model, sites, name)[0]]
    with evaluating(model):
        base = judge(model)
        found = []
        for number, (name, units) in enumerate(jobs):
            for step, level in enumerate(LEVELS):
                tick(f"{name}s of {units.site}", number * len(LEVELS) + step, len(jobs) * 20)
                found.append(_point(study, model, judge, base, name, units, level))
    return found


def _point(
    study: StudyFolder,
    model: nn.Module,
    judge: TopOne,
    base: Score,
    name: str,
    units: Units,
    level: float,
) -> Point:
    def measure() -> list[float]:
        if level == 0:
            return [100 * base.value, 0.0, 0.0, 0.0]
        with zeroed(model, units, level):
            score = judge(model)
        return [100 * score.value, *score.drop_from(base)]

    accuracy, drop, low, high = study.point(f"{name} {units.tensor} {level:.2f}", measure)
    return Point(
        granularity=name,
        site=units.site,
        sparsity=level,
        accuracy=accuracy,
        drop=drop,
        low=low,
        high=high,
    )


def _curves(points: Sequence[Point]) -> dict[str, list[tuple[float, float]]]:
    """Returns (sparsity, points of accuracy lost) by site."""
    found: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        found.setdefault(point.site, []).append((point.sparsity, point.drop))
    return found


def _findings(
    points: Sequence[Point],
    allocations: Allocations | None,
    max_drop: float,
    judged_by: str,
) -> Findings:
    kinds = list(dict.fromkeys(point.granularity for point in points))
    by_kind = {kind: [point for point in points if point.granularity == kind] for kind in kinds}
    rates = {
        kind: {
            site: int(100 * largest_below(curve, max_drop) + 1e-9) / 100
            for site, curve in _curves(own).items()
        }
        for kind, own in by_kind.items()
    }
    notes = tuple(
        f"As a step of a recipe, {kind}s: {_step(kind, own)}" for kind, own in rates.items()
    )
    return Findings(
        name="sensitivity",
        question="How much of each layer can be zeroed, the other layers being dense?",
        claims=(
            *(_differ(kind, own, rates[kind], max_drop) for kind, own in by_kind.items()),
            *((allocations.claim,) if allocations else ()),
        ),
        charts=(
            *(_chart(kind, own) for kind, own in by_kind.items()),
            *((allocations.chart,) if allocations else ()),
        ),
        tables=(
            _rates_table(rates, max_drop),
            *((allocations.table,) if allocations else ()),
            _points_table(points),
        ),
        conditions={
            "judged by": f"top-1 on {judged_by}",
            "retraining": "none",
            "least first": "by mean |w| of what goes together; biases and batch norms stay",
        },
        notes=(*notes, "Filters and channels are zeroed in their own layer alone, as masks."),
    )


def _differ(
    kind: str, points: Sequence[Point], rates: Mapping[str, float], max_drop: float
) -> Claim:
    """Whether some level hurts one layer more than another beyond both intervals."""
    gaps = []
    for level in LEVELS[1:]:
        own = [point for point in points if point.sparsity == level]
        worst, best = max(own, key=lambda point: point.low), min(own, key=lambda point: point.high)
        gaps.append((worst.low - best.high, worst, best))
    gap, worst, best = max(gaps, key=lambda triple: triple[0])
    tough, tender = (choose(rates, key=rates.__getitem__) for choose in (max, min))
    return Claim(
        text=f"Layers differ in how many of their {kind}s they can lose",
        found="holds" if gap > 0 else "undecided",
        evidence=(
            f"At sparsity {worst.sparsity:g}, {worst.site} costs {worst.drop:.1f} points and "
            f"{best.site} {best.drop:.1f}; for at most {max_drop:g}, {tender} bears "
            f"{100 * rates[tender]:.0f} % and {tough} {100 * rates[tough]:.0f} %."
        ),
    )


def _chart(kind: str, points: Sequence[Point]) -> LineChart:
    sites = dict.fromkeys(point.site for point in points)
    return LineChart(
        title=f"Accuracy against sparsity of {kind}s, one layer at a time",
        x_label="share zeroed",
        y_label="top-1, %",
        series=tuple(
            Series.of(
                site, ((point.sparsity, point.accuracy) for point in points if point.site == site)
            )
            for site in sites
        ),
    )


def _step(kind: str, rates: Mapping[str, float]) -> str:
    step = {"prune": {"magnitude": {"pattern": kind, "rates": dict(rates)}}}
    return yaml.safe_dump(step, default_flow_style=True, sort_keys=False, width=10**6).strip()


def _rates_table(rates: Mapping[str, Mapping[str, float]], max_drop: float) -> Table:
    sites = dict.fromkeys(site for own in rates.values() for site in own)
    return Table(
        name="rates",
        title=f"Largest sparsity whose drop stays within {max_drop:g} points",
        columns=("site", *rates),
        rows=tuple((site, *(own.get(site) for own in rates.values())) for site in sites),
    )


def _points_table(points: Sequence[Point]) -> Table:
    return Table(
        name="sensitivity",
        title="Every point",
        columns=("site", "granularity", "sparsity", "top-1 %", "drop", "low", "high"),
        rows=tuple(
            (
                *(point.site, point.granularity, point.sparsity),
                *(round(x, 4) for x in (point.accuracy, point.drop, point.low, point.high)),
            )
            for point in points
        ),
    )
