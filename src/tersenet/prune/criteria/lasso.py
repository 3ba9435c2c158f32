"""Channel selection by LASSO regression on the next layer's output.

He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", 2017,
arXiv:1707.06168.
"""

from collections.abc import Sequence
from typing import ClassVar, Final, final

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.prune.counts import best_units
from tersenet.prune.criteria.observe import calibration_of
from tersenet.prune.criteria.reconstruction import contributions, grams, refit, why_not_rebuilt
from tersenet.prune.criterion import Criterion, Needs, Scope, criterion

__all__ = ["LassoSelection", "entry_penalties", "lasso_channels", "lasso_coefficients"]

_STEPS: Final = 60  # of the penalty, each a factor of 10^(-4/60) = 0.86
_SWEEPS: Final = 200
_TOLERANCE: Final = 1e-6


@final
@criterion("lasso")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LassoSelection(Criterion):
    """Scores a unit by the largest penalty under which the regression still uses it.

    The coefficients β are those of least 1/2 |Y − Σ_c β_c Z_c|² + λ |β|₁, with Z_c what the
    layers that read unit c make of it, so that Y = Σ_c Z_c. The paper raises λ until few enough
    of β are not zero; here λ falls from where all are zero, and the units that enter first stay.
    """

    needs: ClassVar[Needs] = Needs.INPUTS
    ordinal: ClassVar[bool] = True
    usual_scope: ClassVar[Scope] = "layer"

    batches: int = Field(default=10, gt=0)
    """Calibration batches to look at, at most."""
    positions: int = Field(default=10, ge=1)
    """Of the output, drawn at random from every sample."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns the λ at which each unit enters, as a share of the largest, by group."""
        data = calibration_of(self, subject, self.batches)
        products = grams(subject.model, groups, data, positions=self.positions)
        return {name: entry_penalties(gram) for name, gram in products.items()}

    def why_not(self, group: ChannelGroup) -> str | None:
        """Returns why no layer can be rebuilt from the group's units, if so."""
        return super().why_not(group) or why_not_rebuilt(group)


def lasso_coefficients(
    gram: np.ndarray, penalty: float, start: np.ndarray | None = None
) -> np.ndarray:
    """Returns β of least 1/2 βᵀGβ − bᵀβ + λ|β|₁, with b = G 1, by coordinate descent.

    β_c ← S(b_c − Σ_{d≠c} G_cd β_d, λ) / G_cc, with S the soft threshold.
    """
    target, size = gram.sum(1), np.maximum(gram.diagonal(), 1e-300)
    beta = np.zeros(len(gram)) if start is None else start.copy()
    slope = target - gram @ beta
    for _ in range(_SWEEPS):
        largest = 0.0
        for c in range(len(gram)):
            old = beta[c]
            wanted = slope[c] + size[c] * old
            new = np.sign(wanted) * max(abs(wanted) - penalty, 0.0) / size[c]
            if new != old:
                slope -= gram[c] * (new - old)
                beta[c] = new
                largest = max(largest, abs(new - old))
        if largest < _TOLERANCE:
            break
    return beta


def entry_penalties(gram: Float[Tensor, "unit unit"]) -> Float[Tensor, " unit"]:
    """Returns for each unit the largest λ with β_c ≠ 0, as a share of the λ that zeroes all.

    Those that enter at one step of λ are told apart by their coefficients there.
    """
    g = gram.double().numpy()
    largest = max(float(np.abs(g.sum(1)).max()), 1e-300)
    entered, beta = np.zeros(len(g)), np.zeros(len(g))
    ratio = 10 ** (-4 / _STEPS)
    share = 1.0
    for _ in range(_STEPS):
        lower = share * ratio
        beta = lasso_coefficients(g, lower * largest, beta)
        fresh = (beta != 0) & (entered == 0)
        if fresh.any():
            rank = np.abs(beta) / np.abs(beta[fresh]).max()
            entered[fresh] = lower + (share - lower) * 0.999 * rank[fresh]
        share = lower
    return torch.from_numpy(entered)


def lasso_channels(
    x: Float[Tensor, "row channel"], weight: Float[Tensor, "output channel"], *, keep: int
) -> tuple[list[int], Float[Tensor, "output kept"]]:
    """Returns the `keep` channels of x that x Wᵀ is rebuilt from, and the weights on them."""
    kept = list(best_units(entry_penalties(contributions(x.mT @ x, weight)), keep))
    return kept, refit(x, weight, kept)
