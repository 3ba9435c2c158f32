"""Ranks by variational Bayes.

Nakajima, Sugiyama, Babacan, Tomioka, "Global Analytic Solution of Fully-observed Variational
Bayesian Matrix Factorization", JMLR 14, 2013; used to pick ranks of kernels by Kim et al.,
"Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
2015, arXiv:1511.06530; approached in part by Gusak et al., "MUSCO", 2019, arXiv:1903.09973.
"""

import math
from typing import Final, final

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.decompose.factors import Ranks
from tersenet.decompose.form import Form
from tersenet.decompose.rules.energy import singular_values
from tersenet.decompose.rules.rule import LayerRule, rank_rule
from tersenet.decompose.sites import FactorSite

__all__ = ["Bayes", "bayes_rank"]

_TAU: Final = 2.5129
"""The threshold's τ is this times √α, to four digits (Nakajima et al. 2013, equation 17)."""
_GRID: Final = 400
"""Noise levels looked at before the best is refined: the free energy has several minima."""


@final
@rank_rule("bayes")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Bayes(LayerRule):
    """The ranks that variational Bayes tells from noise, approached in part (MUSCO)."""

    strength: float = Field(default=1.0, gt=0, le=1)
    """f: ranks go from r to r − f (r − r_bayes); below 1 for rounds with training between."""
    least: int = Field(default=1, ge=1)
    """Rank below which nothing goes, where the layer has as many."""

    @property
    def text(self) -> str:
        """The rule in words."""
        part = "" if self.strength == 1 else f", {100 * self.strength:g} % of the way"
        return f"variational Bayes{part}"

    def ranks(self, form: Form, site: FactorSite) -> Ranks:
        """Returns the ranks, those of the group that needs most."""
        ranks = []
        for stack, most in zip(form.unfoldings(site.layer), site.full, strict=True):
            bayes = min(most, max(self.least, *map(bayes_rank, stack)))
            ranks.append(round(most - self.strength * (most - bayes)))
        return tuple(ranks)


def bayes_rank(matrix: Float[Tensor, "row column"]) -> int:
    """Returns the rank that is left when a low-rank matrix is told from Gaussian noise.

    The global optimum of empirical variational Bayes in closed form: with L ≤ M rows and columns
    and α = L/M, singular values up to √(M σ² x̄) are noise, x̄ = (1 + τ̄)(1 + α/τ̄). The noise
    variance σ² is where the free energy is least. At least 1.

    Raises:
        StructureError: if the matrix is not finite.
    """
    shorter, longer = sorted(matrix.shape)
    alpha = shorter / longer
    tau = _TAU * math.sqrt(alpha)
    threshold = (1 + tau) * (1 + alpha / tau)  # x̄
    squared = singular_values(matrix).square()
    if float(squared.sum()) == 0:
        return 1
    variance = _noise(squared, shorter, longer, alpha, threshold)
    return max(1, int((squared > longer * threshold * variance).sum()))


def _noise(
    squared: Float[Tensor, " value"], shorter: int, longer: int, alpha: float, threshold: float
) -> float:
    """Returns the σ² of least free energy between the bounds of the paper's theorem."""
    most = float(squared.sum()) / (shorter * longer)
    at = min(shorter - 1, math.ceil(shorter / (1 + alpha)) - 1)
    least = max(
        float(squared[min(at + 1, shorter - 1)]) / (longer * threshold),
        float(squared[at + 1 :].mean()) / longer if at + 1 < shorter else 0.0,
        most * 1e-12,
    )
    low, high = math.log(min(least, most)), math.log(most)
    for _ in range(3):  # each time closer around the best
        levels = torch.linspace(low, high, _GRID, dtype=torch.float64)
        best = int(_free_energy(squared, levels.exp(), longer, alpha, threshold).argmin())
        low, high = float(levels[max(0, best - 1)]), float(levels[min(_GRID - 1, best + 1)])
    return math.exp((low + high) / 2)


def _free_energy(
    squared: Float[Tensor, " value"],
    variances: Float[Tensor, " level"],
    longer: int,
    alpha: float,
    threshold: float,
) -> Float[Tensor, " level"]:
    """Returns Σ ψ(γ²/(M σ²)), up to what is the same for every σ²."""
    x = (squared / (longer * variances[:, None])).clamp_min(1e-300)
    past = (x - (1 + alpha)).clamp_min(0)
    tau = 0.5 * (past + (past.square() - 4 * alpha).clamp_min(0).sqrt())
    signal = x - tau + ((tau + 1) / x).log() + alpha * (tau / alpha + 1).log()
    noise = x - x.log()
    return torch.where(x > threshold, signal, noise).sum(1)
