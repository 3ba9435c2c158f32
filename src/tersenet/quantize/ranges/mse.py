"""The range of least mean squared error, between clipping and rounding."""

from typing import ClassVar, final

import numpy as np
from pydantic.dataclasses import dataclass

from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.base import RANGES, Range
from tersenet.quantize.ranges.histogram import Histogram
from tersenet.quantize.ranges.observer import Observer
from tersenet.quantize.ranges.searched import best_range

__all__ = ["LeastError"]


@final
@RANGES.register("mse")
@dataclass(frozen=True, config={"extra": "forbid"})
class LeastError(Range[Histogram]):
    """The best of a search over the largest magnitude: at few bits it clips, at 8 hardly."""

    observes: ClassVar[type[Observer]] = Histogram

    def ends(self, seen: Histogram, scheme: Scheme) -> tuple[float, float]:
        """Returns the range found."""
        return best_range(seen, scheme.bits, _squared_error)


def _squared_error(
    centres: np.ndarray, counts: np.ndarray, levels: np.ndarray, step: float
) -> float:
    return float(counts @ np.square(levels - centres)) * (step * step)
