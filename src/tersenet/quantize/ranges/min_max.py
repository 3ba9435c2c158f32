"""All that was seen: nothing is clipped."""

from typing import ClassVar, final

from pydantic.dataclasses import dataclass

from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.base import RANGES, Range
from tersenet.quantize.ranges.observer import Observer
from tersenet.quantize.ranges.statistics import Statistics

__all__ = ["MinMax"]


@final
@RANGES.register("min-max")
@dataclass(frozen=True, config={"extra": "forbid"})
class MinMax(Range[Observer | Statistics]):
    """From the least to the largest value seen."""

    of_statistics: ClassVar[bool] = True

    def ends(self, seen: Observer | Statistics, scheme: Scheme) -> tuple[float, float]:
        """Returns both."""
        del scheme
        return seen.min, seen.max
