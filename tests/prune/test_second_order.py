"""The second-order formulas on quadratics, by brute force; statistics of feature maps."""

import pytest
import torch
from torch import Tensor

from tersenet.errors import DataError, StructureError
from tersenet.prune import (
    average_zeros,
    damage,
    feature_map_norm,
    mean_rank,
    principal_width,
    second_order_change,
    surgeon,
)

SIZE = 6


def quadratic() -> tuple[Tensor, Tensor]:
    """A positive definite Hessian and the place of the minimum."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    minimum = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    return root @ root.T + torch.eye(SIZE, dtype=torch.float64), minimum


def loss(u: Tensor) -> Tensor:
    hessian, minimum = quadratic()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(SIZE):
        for j in range(SIZE):
            total = total + 0.5 * hessian[i, j] * (u[i] - minimum[i]) * (u[j] - minimum[j])
    return total


def test_the_expansion_is_the_change_of_a_quadratic_anywhere():
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        at, change = torch.randn(2, SIZE, generator=generator, dtype=torch.float64)
        at.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(at), at)
        hessian = torch.autograd.functional.hessian(loss, at.detach())
        found = second_order_change(change, gradient, hessian)
        torch.testing.assert_close(found, (loss(at + change) - loss(at)).detach())


def test_damage_is_the_rise_where_one_weight_goes():
    hessian, minimum = quadratic()
    found = damage(minimum, hessian.diagonal())
    for index in range(SIZE):
        without = minimum.clone()
        without[index] = 0
        torch.testing.assert_close(found[index], loss(without) - loss(minimum))


def test_the_surgeon_finds_the_constrained_minimum():
    _, minimum = quadratic()
    hessian, _ = quadratic()
    for index in range(SIZE):
        saliency, change = surgeon(minimum, hessian, index=index)
        kept = [one for one in range(SIZE) if one != index]
        # By descent on the kept weights, which knows no inverse.
        u = minimum.clone()
        u[index] = 0
        rate = 1 / torch.linalg.eigvalsh(hessian)[-1]
        for _ in range(4000):
            u[kept] -= rate * (hessian @ (u - minimum))[kept]
        torch.testing.assert_close(minimum + change, u, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(saliency, loss(u), rtol=1e-6, atol=1e-8)
        assert (minimum + change)[index].abs() < 1e-12
        assert saliency <= damage(minimum, hessian.diagonal())[index] + 1e-12


def test_a_flat_direction_is_refused():
    flat = torch.ones(3, 3, dtype=torch.float64)
    with pytest.raises(StructureError, match="not positive definite"):
        surgeon(torch.ones(3, dtype=torch.float64), flat, index=0)


def test_statistics_of_planted_maps():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(9, 4, 5, 7, generator=generator) + 0.1
    maps[:, 1] = 0
    columns = torch.rand(9, 5, 1, generator=generator), torch.rand(9, 1, 7, generator=generator)
    maps[:, 2] = columns[0] @ columns[1]
    maps[:, 3, :, :3] = 0
    assert mean_rank(maps).tolist() == [5, 0, 1, 4]
    assert average_zeros(maps).tolist() == [0, 1, 0, pytest.approx(3 / 7)]
    torch.testing.assert_close(feature_map_norm(-maps), maps.mean((0, 2, 3)))
    assert mean_rank(maps[:, :, 0]).tolist() == [1, 0, 1, 1]  # one row
    assert mean_rank(maps[:, :, 0, 0]).tolist() == [1, 0, 1, 0]  # one number


@pytest.mark.parametrize("rank", [1, 5, 16])
def test_planted_rank_is_the_width(rank: int):
    generator = torch.Generator().manual_seed(rank)
    spread = torch.randn(500, rank, generator=generator) @ torch.randn(
        rank, 16, generator=generator
    )
    assert principal_width(spread + 7, variance=1 - 1e-9) == rank  # the mean does not count
    scaled = torch.randn(20_000, 3, generator=generator) * torch.tensor([3.0, 1.0, 0.1])
    assert principal_width(scaled, variance=0.85) == 1  # 9 / 10.01
    assert principal_width(scaled, variance=0.95) == 2  # 10 / 10.01


@pytest.mark.parametrize("variance", [0.0, 1.5])
def test_a_share_out_of_range_is_refused(variance: float):
    with pytest.raises(DataError, match="share"):
        principal_width(torch.randn(9, 2), variance=variance)
