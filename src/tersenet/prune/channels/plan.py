"""What a channel pruner decided: plain data that a run folder can keep."""

from dataclasses import dataclass
from typing import final

from tersenet.core.types import Skip
from tersenet.timing.staircase import Staircase

__all__ = ["PrunePlan"]


@final
@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """The units each group keeps, and what that costs and saves."""

    method: str
    keep: dict[str, tuple[int, ...]]
    """The units that stay, for each group considered."""
    sizes: dict[str, int]
    """The units that each of these groups has."""
    requested: float
    """Share of units to keep, of the groups considered."""
    params: tuple[int, int]
    """Before and after."""
    macs: tuple[int, int]
    """Of one sample, before and after."""
    staircases: tuple[Staircase, ...] = ()
    """What the runtime was measured to like; empty where nothing was measured."""
    skips: tuple[Skip, ...] = ()

    @property
    def reached(self) -> float:
        """Share of units kept, of the groups considered."""
        return sum(map(len, self.keep.values())) / max(1, sum(self.sizes.values()))

    @property
    def signature(self) -> dict[str, int]:
        """The units each group keeps, as the option `counts` of any criterion takes them."""
        return {name: len(kept) for name, kept in self.keep.items()}

    @property
    def summary(self) -> str:
        """One line for a person."""
        if not self.keep:
            why = "; ".join(f"'{skip.site}': {skip.reason}" for skip in self.skips[:2])
            return f"{self.method}: nothing can go, the network stays as it is ({why})"
        changed = sum(len(kept) < self.sizes[name] for name, kept in self.keep.items())
        (params, fewer_params), (macs, fewer_macs) = self.params, self.macs
        return (
            f"{self.method}: keeps {100 * self.reached:.1f} % of the units "
            f"({100 * self.requested:g} % requested) in {len(self.keep)} groups, {changed} "
            f"smaller; parameters {params:,} → {fewer_params:,}, "
            f"MACs {macs:,} → {fewer_macs:,}"
        )
