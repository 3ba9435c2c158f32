"""Ranks of a matrix: by energy, by rate, and by variational Bayes.

`bayes_rank`: Nakajima, Sugiyama, Babacan, Tomioka, "Global Analytic Solution of Fully-observed
Variational Bayesian Matrix Factorization", JMLR 14, 2013; used to pick ranks of kernels by Kim et
al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
Applications", 2015, arXiv:1511.06530.
"""

import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from tersenet.errors import StructureError

__all__ = ["bayes_rank", "energy_rank", "rate_rank"]

_TAU: Final = 2.5129
"""The threshold's τ is this times √α, to four digits (Nakajima et al. 2013, equation 17)."""
_GRID: Final = 400
"""Noise levels looked at before the best is refined: the free energy has several minima."""


def energy_rank(matrix: Float[Tensor, "row column"], *, energy: float) -> int:
    """Returns the least r with Σ_{i≤r} σ_i² ≥ energy · Σ σ_i².

    Raises:
        StructureError: if the matrix is not finite, or `energy` not between 0 and 1.
    """
    if not 0 < energy <= 1:
        raise StructureError(f"an energy of {energy:g} cannot be kept: take a share of 1.")
    squared = _singular_values(matrix).square()
    kept = squared.cumsum(0) / squared.sum().clamp_min(1e-300)
    return min(len(squared), 1 + int((kept < energy - 1e-12).sum()))


def rate_rank(matrix: Float[Tensor, "row column"], *, rate: float) -> int:
    """Returns the r at which two factors hold 1/rate of an m×n matrix: mn / (rate (m + n)).

    Raises:
        StructureError: if `rate` is not positive.
    """
    if rate <= 0:
        raise StructureError(f"a rate of {rate:g} cannot be reached: take one above 1.")
    m, n = matrix.shape
    return min(m, n, max(1, round(m * n / (rate * (m + n)))))


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
    squared = _singular_values(matrix).square()
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


def _singular_values(matrix: Tensor) -> Float[Tensor, " value"]:
    if not torch.isfinite(matrix).all():
        raise StructureError(
            "a matrix with NaN or infinite entries has no rank: check the weights."
        )
    return torch.linalg.svdvals(matrix.detach().double())
