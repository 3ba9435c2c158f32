"""Latency reduction, and accuracies gathered by it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from tersenet.study.layer_vs_filter.random_models import Kind

__all__ = ["Bin", "gather_bins", "latency_reduction"]

WIDTH: Final = 10.0
"""How wide a bin is, in points of latency reduction."""


def latency_reduction(own_ms: float, base_ms: float) -> float:
    """Returns LR = 100 · (1 − t_own / t_base) in %; below zero is slower than the base."""
    return 100 * (1 - own_ms / base_ms)


@final
@dataclass(frozen=True, kw_only=True)
class Bin:
    """The models whose latency reduction lies within some points."""

    low: float
    high: float
    values: Mapping[Kind, tuple[float, ...]]
    """Accuracies in %, by how the models were pruned."""

    @property
    def middle(self) -> float:
        """Where the bin is drawn."""
        return (self.low + self.high) / 2

    @property
    def shared(self) -> bool:
        """Whether it holds at least three models of each kind, to compare their deviations."""
        return all(len(accuracies) > 2 for accuracies in self.values.values())

    def mean(self, kind: Kind) -> float:
        """Returns the mean accuracy."""
        return statistics.fmean(self.values[kind])

    def point(self, kind: Kind) -> tuple[float, float, float, float]:
        """Returns the bin's middle, and the mean accuracy with a deviation below and above it."""
        mean, deviation = self.mean(kind), self.deviation(kind)
        return self.middle, mean, mean - deviation, mean + deviation

    def deviation(self, kind: Kind) -> float:
        """Returns the standard deviation of the accuracy; 0 of a single model."""
        return statistics.stdev(self.values[kind]) if len(self.values[kind]) > 1 else 0.0


def gather_bins(points: Mapping[Kind, Sequence[Mapping[str, Any]]]) -> tuple[Bin, ...]:
    """Returns the bins that hold any model, by latency reduction at the first batch size."""
    places: dict[int, dict[Kind, list[float]]] = {}
    for kind, found in points.items():
        for point in found:
            place = math.floor(point["reduction"][0][0] / WIDTH)
            own = places.setdefault(place, {other: [] for other in points})
            own[kind].append(point["accuracy"])
    return tuple(
        Bin(
            low=WIDTH * place,
            high=WIDTH * (place + 1),
            values={kind: tuple(values) for kind, values in own.items()},
        )
        for place, own in sorted(places.items())
    )
