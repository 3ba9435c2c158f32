"""Ranks that keep a share of the energy."""

from typing import final

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.decompose.factors import Ranks
from tersenet.decompose.form import Form
from tersenet.decompose.rules.rule import LayerRule, rank_rule
from tersenet.decompose.sites import FactorSite
from tersenet.errors import StructureError

__all__ = ["EnergyShare", "energy_rank", "singular_values"]


def energy_rank(matrix: Float[Tensor, "row column"], *, energy: float) -> int:
    """Returns the least r with Σ_{i≤r} σ_i² ≥ energy · Σ σ_i².

    Raises:
        StructureError: if the matrix is not finite, or `energy` not between 0 and 1.
    """
    if not 0 < energy <= 1:
        raise StructureError(f"an energy of {energy:g} cannot be kept: take a share of 1.")
    squared = singular_values(matrix).square()
    kept = squared.cumsum(0) / squared.sum().clamp_min(1e-300)
    return min(len(squared), 1 + int((kept < energy - 1e-12).sum()))


def singular_values(matrix: Tensor) -> Float[Tensor, " value"]:
    """Returns them in float64. Raises StructureError if the matrix is not finite."""
    if not torch.isfinite(matrix).all():
        raise StructureError(
            "a matrix with NaN or infinite entries has no rank: check the weights."
        )
    return torch.linalg.svdvals(matrix.detach().double())


@final
@rank_rule("energy")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class EnergyShare(LayerRule):
    """The least ranks that keep a share of the squared singular values."""

    share: float = Field(default=0.9, gt=0, le=1)
    """Σ σ² to keep, of each matrix whose rank is chosen."""

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"{100 * self.share:g} % of the energy"

    def ranks(self, form: Form, site: FactorSite) -> Ranks:
        """Returns the ranks, those of the group that needs most."""
        return tuple(
            min(most, max(energy_rank(matrix, energy=self.share) for matrix in stack))
            for stack, most in zip(form.unfoldings(site.layer), site.full, strict=True)
        )
