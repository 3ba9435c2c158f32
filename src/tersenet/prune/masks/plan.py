"""What a mask will zero: plain data that a run folder can keep."""

from dataclasses import dataclass
from typing import final

from tersenet.core.types import Skip
from tersenet.prune.masks.units import Units

__all__ = ["MaskPlan"]


@final
@dataclass(frozen=True, kw_only=True)
class MaskPlan:
    """How many units of each weight are zeroed."""

    method: str
    pattern: str
    shared: str
    """How the sparsity of each weight was found, for a person."""
    weights: tuple[Units, ...]
    """The weights considered, and how they are cut."""
    gone: dict[str, int]
    """Units to zero, by tensor; of a pattern n:m, the weights."""
    params: tuple[int, int]
    """Before and after: the same, for a mask removes none."""
    macs: tuple[int, int]
    """Of one sample, before and after: the same."""
    skips: tuple[Skip, ...] = ()

    @property
    def zeros(self) -> int:
        """Weights that will be zero."""
        return sum(
            self.gone[units.tensor] * (units.unit_weights if units.at_most is None else 1)
            for units in self.weights
        )

    @property
    def summary(self) -> str:
        """One line for a person."""
        whole = sum(units.weights for units in self.weights)
        return (
            f"{self.method} by {self.pattern}, {self.shared}: {100 * self.zeros / whole:.2f} % of "
            f"{whole:,} weights in {len(self.weights)} layers become zero; all "
            f"{self.params[1]:,} parameters are still stored, all {self.macs[1]:,} MACs still "
            "computed"
        )
