"""Ranks of matrices: planted ones are found again."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from tersenet.decompose import bayes_rank, energy_rank, rate_rank
from tersenet.errors import StructureError


@pytest.mark.parametrize("shape", [(60, 50), (30, 200), (200, 30), (64, 576)])
@pytest.mark.parametrize("rank", [2, 7, 15])
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_planted_ranks_are_found(shape: tuple[int, int], rank: int, noise: float) -> None:
    generator = torch.Generator().manual_seed(rank)
    m, n = shape
    signal = torch.randn(m, rank, generator=generator) @ torch.randn(rank, n, generator=generator)
    matrix = signal + noise * torch.randn(m, n, generator=generator)
    assert abs(bayes_rank(matrix) - rank) <= 1
    assert energy_rank(signal, energy=0.999999) == rank


def test_noise_alone_has_no_rank_to_speak_of() -> None:
    matrix = torch.randn(80, 120, generator=torch.Generator().manual_seed(0))
    assert bayes_rank(matrix) <= 2
    assert bayes_rank(torch.zeros(5, 7)) == 1


def test_bayes_is_where_the_free_energy_is_least() -> None:
    """The same formulas minimised by SciPy, term by term as the paper has them."""
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(20, 4, generator=generator) @ torch.randn(4, 35, generator=generator)
    matrix += 0.7 * torch.randn(20, 35, generator=generator)
    s2 = np.linalg.svd(matrix.numpy(), compute_uv=False).astype(float) ** 2
    size, longer = 20, 35
    alpha = size / longer
    limit = (1 + 2.5129 * alpha**0.5) * (1 + alpha / (2.5129 * alpha**0.5))

    def energy(log_variance: float) -> float:
        total = 0.0
        for x in s2 / (longer * math.exp(log_variance)):
            total += x - math.log(x)
            if x > limit:
                tau = (x - 1 - alpha + math.sqrt((x - 1 - alpha) ** 2 - 4 * alpha)) / 2
                total += math.log(tau + 1) + alpha * math.log(tau / alpha + 1) - tau
        return total

    ends = np.log([s2[-1] / longer, s2.sum() / (size * longer)])
    grid = np.linspace(*ends, 200)
    near = grid[np.argmin([energy(one) for one in grid])]
    best = minimize_scalar(energy, bounds=(near - 0.1, near + 0.1), method="bounded").x
    expected = int((s2 > longer * limit * math.exp(best)).sum())
    assert bayes_rank(matrix) == expected == 4


@pytest.mark.parametrize("rate", [1.5, 2.0, 3.0, 5.0])
def test_a_rate_is_met_within_a_tenth(rate: float) -> None:
    rank = rate_rank(torch.zeros(96, 150), rate=rate)
    assert 96 * 150 / (rank * (96 + 150)) == pytest.approx(rate, rel=0.1)


def test_energy_is_the_least_rank_that_keeps_it() -> None:
    matrix = torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.5]))  # squares 4, 1, 1, 0.25
    found = [energy_rank(matrix, energy=one) for one in (0.5, 0.64, 0.65, 0.8, 0.97, 1.0)]
    assert found == [1, 1, 2, 2, 4, 4]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(StructureError, match="energy of 2"):
        energy_rank(torch.eye(3), energy=2)
    with pytest.raises(StructureError, match="rate of 0"):
        rate_rank(torch.eye(3), rate=0)
    with pytest.raises(StructureError, match="no rank"):
        bayes_rank(torch.full((3, 3), torch.nan))
