"""All of a weight: nothing is clipped."""

from typing import final

from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.quantize.grids.linear import Grid
from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.weight_range import WEIGHT_RANGES, WeightRange

__all__ = ["WholeWeight"]


@final
@WEIGHT_RANGES.register("min-max")
@dataclass(frozen=True, config={"extra": "forbid"})
class WholeWeight(WeightRange):
    """From the least to the largest of all that share a scale."""

    def grid(self, weight: Tensor, scheme: Scheme, *, axis: int) -> Grid:
        """Returns the scheme's own grid."""
        return scheme.grid(weight, axis=axis)
