"""How long is timed, and why that is enough: one kind of plan, and each that is in use by name."""

from dataclasses import dataclass, replace
from typing import Final, final

__all__ = ["CELL", "FILE", "MANY", "SCHEMES", "STAIRCASE", "TimingPlan"]


@final
@dataclass(frozen=True, kw_only=True)
class TimingPlan:
    """How often each candidate is run, in turns with the others.

    It is run `iterations` times at least, so that there are enough rounds to resample, however
    slow it is. Then it goes on until `seconds` are over, and at ten times as many runs it is sure
    enough: what an interval still has in width then comes from the machine, not from the count.
    """

    iterations: int
    seconds: float
    """For each candidate, beyond that number."""
    warmup: int = 10
    """Runs of each before the first that counts; ten of whole files."""

    def among(self, candidates: int) -> "TimingPlan":
        """Returns the plan with its seconds shared among so many candidates."""
        return replace(self, seconds=self.seconds / candidates)

    @property
    def brief(self) -> "TimingPlan":
        """The plan that stops at its number of runs."""
        return replace(self, seconds=0.0)


STAIRCASE: Final = TimingPlan(iterations=24, seconds=1.0, warmup=3)
"""Counts of one kind of layer, which share the second. Six rounds of four runs are the fewest
that bounds may be resampled from, and a network has a handful of kinds (ResNet-20 has three)."""

CELL: Final = TimingPlan(iterations=24, seconds=0.02, warmup=3)
"""One pair of widths, or one chain of factors, of up to hundreds. Of these only the least time is
read, which a few runs show: whatever else runs on the machine only adds time."""

FILE: Final = TimingPlan(iterations=100, seconds=0.5)
"""A whole file beside another, which decides whether a budget is kept. A hundred runs bring the
interval of the ratio to about one percent, which is what the place in memory makes anyway."""

MANY: Final = TimingPlan(iterations=40, seconds=0.3)
"""Tens of files, or of blocks: each ratio may err by some percent, as a function is fitted through
all of them, or as what is worth doing saves far more."""

SCHEMES: Final = TimingPlan(iterations=30, seconds=0.5)
"""A quantised file beside its float one: 8 bits gain or lose tens of percent."""
