"""What dropping layers decides."""

from dataclasses import dataclass
from typing import final

from tersenet.core.types import Skip

__all__ = ["LayerPlan"]


@final
@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """The layers that go, and what that costs and saves."""

    criterion: str
    scores: dict[str, float]
    """Of every layer considered, in the order of execution."""
    removed: tuple[str, ...]
    """Those that go, least score first."""
    params: tuple[int, int]
    """Before and after."""
    macs: tuple[int, int]
    """Of one sample, before and after."""
    skips: tuple[Skip, ...] = ()

    @property
    def summary(self) -> str:
        """One line for a person."""
        (params, fewer_params), (macs, fewer_macs) = self.params, self.macs
        return (
            f"layers by {self.criterion}: {len(self.removed)} of {len(self.scores)} go "
            f"({', '.join(self.removed) or 'none'}); parameters {params:,} → {fewer_params:,}, "
            f"MACs {macs:,} → {fewer_macs:,}"
        )
