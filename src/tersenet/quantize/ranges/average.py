"""The mean of each sample's ends: one outlier among the samples moves it little (deck 3's avg)."""

from typing import ClassVar, final

from pydantic.dataclasses import dataclass

from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.base import RANGES, Range
from tersenet.quantize.ranges.observer import Observer
from tersenet.quantize.ranges.statistics import Statistics

__all__ = ["AverageRange"]


@final
@RANGES.register("average")
@dataclass(frozen=True, config={"extra": "forbid"})
class AverageRange(Range[Observer | Statistics]):
    """From the mean least to the mean largest value of a sample."""

    of_statistics: ClassVar[bool] = True

    def ends(self, seen: Observer | Statistics, scheme: Scheme) -> tuple[float, float]:
        """Returns the two means."""
        del scheme
        return seen.avg_min, seen.avg_max
