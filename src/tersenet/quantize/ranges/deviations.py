"""So many standard deviations around the mean (deck 3's n_std)."""

from typing import ClassVar, final

from pydantic import Field
from pydantic.dataclasses import dataclass

from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.base import RANGES, Range
from tersenet.quantize.ranges.histogram import Histogram
from tersenet.quantize.ranges.observer import Observer
from tersenet.quantize.ranges.statistics import Statistics

__all__ = ["Deviations"]


@final
@RANGES.register("deviations")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Deviations(Range[Histogram | Statistics]):
    """Around the mean, but no more than was seen: for values that are nearly normal."""

    of_statistics: ClassVar[bool] = True
    observes: ClassVar[type[Observer]] = Histogram

    count: float = Field(default=4.0, gt=0)
    """Standard deviations on either side of the mean."""

    def ends(self, seen: Histogram | Statistics, scheme: Scheme) -> tuple[float, float]:
        """Returns the bounds."""
        del scheme
        mean, reach = seen.mean, self.count * seen.std
        return max(seen.min, mean - reach), min(seen.max, mean + reach)
