"""Ends that follow each batch's, as they do in training.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2017, arXiv:1712.05877, section 3.1.
"""

from typing import final

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.base import RANGES, Range
from tersenet.quantize.ranges.observer import Observer

__all__ = ["FollowingObserver", "MovingAverage"]


@final
class FollowingObserver(Observer):
    """Moves its ends towards each batch's by a share of the way."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.followed: tuple[float, float] | None = None
        """The ends; None before the first batch."""

    def observe(self, x: Tensor) -> None:
        """Takes one batch into account, sample first."""
        super().observe(x)
        low, high = (float(end) for end in x.aminmax())
        old_low, old_high = self.followed or (low, high)
        self.followed = (
            old_low + self.share * (low - old_low),
            old_high + self.share * (high - old_high),
        )


@final
@RANGES.register("moving-average")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class MovingAverage(Range[FollowingObserver]):
    """Averages that favour the batches seen last: for comparison with ranges of training."""

    share: float = Field(default=0.01, gt=0, le=1)
    """Of the way to a batch's ends that is gone at each batch."""

    def observer(self) -> FollowingObserver:
        """Returns one that goes that share."""
        return FollowingObserver(self.share)

    def ends(self, seen: FollowingObserver, scheme: Scheme) -> tuple[float, float]:
        """Returns the averaged ends."""
        del scheme
        assert seen.followed is not None  # something was seen
        return seen.followed
