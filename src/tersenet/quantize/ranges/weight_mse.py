"""Each scale of a weight by itself: the range of least squared error."""

from typing import Final, final

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.quantize.grids.linear import Grid, round_trip
from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.weight_range import WEIGHT_RANGES, WeightRange

__all__ = ["LeastWeightError"]

_SHARES: Final = torch.linspace(1, 0.3, 71)
"""Of what a scale has to hold."""


@final
@WEIGHT_RANGES.register("mse")
@dataclass(frozen=True, config={"extra": "forbid"})
class LeastWeightError(WeightRange):
    """The best of 71 shares of each range: for less than 8 bits."""

    def grid(self, weight: Tensor, scheme: Scheme, *, axis: int) -> Grid:
        """Returns the grid of least squared error."""
        low, high = scheme.extremes(weight, axis=axis)
        best = torch.ones_like(low)
        least = torch.full_like(low, float("inf"))
        for share in _SHARES:
            rounded = round_trip(weight, scheme.between(low * share, high * share), axis=axis)
            error = scheme.per.rows((rounded - weight).square(), axis=axis).sum(-1)
            best = torch.where(error < least, share, best)
            least = torch.minimum(error, least)
        return scheme.between(low * best, high * best)
