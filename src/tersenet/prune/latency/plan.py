"""What latency-aware pruning decides: units, blocks, and the time that is left."""

from dataclasses import dataclass
from typing import Literal, final

from tersenet.core.types import Skip
from tersenet.timing.staircase import Staircase

__all__ = ["LatencyPlan"]


@final
@dataclass(frozen=True, kw_only=True)
class LatencyPlan:
    """The units each group keeps, and the time that leaves."""

    criterion: str
    keep: dict[str, tuple[int, ...]]
    """The units that stay, for each group considered."""
    sizes: dict[str, int]
    """The units that each of these groups has."""
    dropped: tuple[str, ...] = ()
    """The residual blocks that go whole; groups within them are kept as they are."""
    asked: float
    """Share of the original's time."""
    reached: float
    """Share of the original's time that this takes, by `source`."""
    source: Literal["measured", "estimated"]
    """measured: the file, timed; estimated: the sum of its layers, where a later step decides
    what file that is."""
    batch: int
    tried: tuple[tuple[float, float], ...]
    """(estimated share, reached share) of each choice that was tried."""
    params: tuple[int, int]
    """Before and after."""
    macs: tuple[int, int]
    """Of one sample, before and after."""
    staircases: tuple[Staircase, ...] = ()
    skips: tuple[Skip, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the budget is kept."""
        return self.reached <= self.asked

    @property
    def summary(self) -> str:
        """One line for a person."""
        (params, fewer_params), (macs, fewer_macs) = self.params, self.macs
        without = f", without {len(self.dropped)} blocks" if self.dropped else ""
        missed = "" if self.met else ", MISSED: the fastest of what was tried"
        return (
            f"{self.criterion}: takes {100 * self.reached:.1f} % of the original's time at batch "
            f"{self.batch}, {self.source} ({100 * self.asked:g} % asked{missed}){without}; "
            f"parameters {params:,} → {fewer_params:,}, MACs {macs:,} → {fewer_macs:,}"
        )
