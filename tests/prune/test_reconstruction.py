"""ThiNet, LASSO and PCA against brute force, optimality conditions and planted structure."""

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tersenet.core.types import Batch, Subject, Workbench
from tersenet.errors import DataError, StructureError
from tersenet.graph import trace
from tersenet.prune import L1, PCA, Channels, LassoSelection, ThiNet, lasso_channels, thinet
from tersenet.prune.criteria.lasso import entry_penalties, lasso_coefficients
from tersenet.prune.criteria.pca import unexplained
from tersenet.prune.criteria.reconstruction import grams
from tersenet.prune.criteria.thinet import removal_order

ANY = {"multiple_of": None}
EVERYWHERE = {"positions": 10_000, "batches": 100}


class Readers(nn.Module):
    """A convolution that two others read, one of them with a stride; then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.left = nn.Conv2d(6, 4, 3, padding=1)
        self.right = nn.Conv2d(6, 3, 3, stride=2)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu_()
        both = [self.left(x).relu().mean((2, 3)), self.right(x).relu().mean((2, 3))]
        return self.head(torch.cat(both, 1))


def batches(count: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(5, 2, 6, 6, generator=generator), torch.zeros(5, dtype=torch.long))
        for _ in range(count)
    ]


def subject() -> Subject:
    torch.manual_seed(1)
    return Subject(model=Readers().eval(), example=(batches()[0][0],), calibration=batches())


def errors_without(model: nn.Module, data: list[Batch], gone: set[int]) -> float:
    """Σ over readers of |Y − Y(without)|² / |Y|², biases aside, with channels really zeroed."""
    total = 0.0
    for reader in (model.left, model.right):
        missed = size = 0.0
        for inputs, _ in data:
            hidden = model.first(inputs).relu()
            less = hidden.clone()
            less[:, list(gone)] = 0
            bias = reader.bias.view(-1, 1, 1)
            missed += (reader(hidden) - reader(less)).square().sum().item()
            size += (reader(hidden) - bias).square().sum().item()
        total += missed / size
    return total


def test_thinet_is_the_greedy_choice():
    whole = subject()
    groups = trace(whole.model, whole.example).groups
    found = ThiNet(**EVERYWHERE).score(whole, groups)["first"]
    order: list[int] = []
    with torch.no_grad():
        for _ in range(6):
            rest = [unit for unit in range(6) if unit not in order]
            data = list(whole.calibration)
            order.append(min(rest, key=lambda u: errors_without(whole.model, data, {*order, u})))
    assert found.argsort().tolist() == order
    assert found[order[0]] == 0
    assert sorted(range(6)) != order  # not by chance the order of the channels


def test_the_gram_matrix_says_the_error_of_any_choice():
    whole = subject()
    groups = trace(whole.model, whole.example).groups
    gram = grams(whole.model, groups, whole.calibration, positions=10_000)["first"]
    with torch.no_grad():
        for gone in ({0}, {1, 4}, {0, 2, 3, 5}):
            chosen = torch.zeros(6, dtype=torch.float64)
            chosen[list(gone)] = 1
            expected = errors_without(whole.model, list(whole.calibration), gone)
            assert (chosen @ gram @ chosen).item() == pytest.approx(expected, rel=1e-4)


def test_greedy_order_of_a_gram_matrix_by_hand():
    # Unit 0 and 1 cancel: each alone matters most, together nothing.
    gram = torch.tensor([[9.0, -9, 0], [-9, 9, 0], [0, 0, 4]]).double()
    assert removal_order(gram) == [2, 0, 1]
    gram[2, 2] = 10
    assert removal_order(gram) == [0, 1, 2]


def test_lasso_meets_the_conditions_of_optimality():
    torch.manual_seed(0)
    z = torch.randn(40, 8).double()
    z[:, 7] = z[:, 6] + 0.5 * z[:, 7]
    gram = (z.T @ z).numpy()
    for penalty in (0.1, 5.0, 40.0):
        beta = lasso_coefficients(gram, penalty)
        slope = gram.sum(1) - gram @ beta  # of the smooth part, negated
        used = beta != 0
        np.testing.assert_allclose(slope[used], penalty * np.sign(beta[used]), atol=1e-3)
        assert (np.abs(slope[~used]) <= penalty + 1e-3).all()
    assert (lasso_coefficients(gram, np.abs(gram.sum(1)).max()) == 0).all()
    np.testing.assert_allclose(lasso_coefficients(gram, 0.0), 1, atol=1e-3)


def test_units_enter_by_their_correlation_with_the_output():
    # With Z_c orthogonal, β_c leaves zero at λ = |Z_c|².
    gram = torch.diag(torch.tensor([3.0, 0.5, 8.0, 1.0])).double()
    found = entry_penalties(gram)
    assert found.argsort(descending=True).tolist() == [2, 0, 3, 1]
    expected = torch.tensor([3 / 8, 0.5 / 8, 1, 1 / 8]).double()
    assert ((found - expected).abs() / expected).max() < 0.16  # one step of the penalty


@pytest.mark.parametrize("choose", [thinet, lasso_channels], ids=["thinet", "lasso"])
def test_the_choice_is_near_the_best_of_all(choose):
    wins = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(150, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
        weight = torch.randn(5, 8, generator=generator)
        y = x @ weight.T

        def error(kept: list[int], x: Tensor = x, y: Tensor = y) -> float:
            best = torch.linalg.lstsq(x[:, kept], y).solution
            return (y - x[:, kept] @ best).square().sum().item()

        kept, repaired = choose(x, weight, keep=4)
        assert len(kept) == 4
        own = (y - x[:, kept] @ repaired.T).square().sum().item()
        assert own == pytest.approx(error(kept), rel=1e-3)  # the weights are the best for it
        every = [error(list(some)) for some in itertools.combinations(range(8), 4)]
        by_norm = weight.abs().sum(0).topk(4).indices.tolist()
        assert own < (y - x[:, by_norm] @ weight[:, by_norm].T).square().sum().item()
        wins += own <= sorted(every)[len(every) // 4]
    assert wins >= 7  # among the best quarter of all choices, mostly


class Planted(nn.Module):
    """Eight channels of which the last five are sums of the first three; and a dead one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 9, 3), nn.Conv2d(9, 4, 3)
        mix = torch.randn(5, 3)
        mixed = torch.einsum("oi,i...->o...", mix, self.first.weight.data[:3])
        self.first.weight.data[3:8] = mixed
        self.first.weight.data[8] = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).mean((2, 3))


def test_pca_finds_the_planted_width_and_units_that_give_the_others():
    torch.manual_seed(2)
    whole = Subject(model=Planted(), example=(batches()[0][0],), calibration=batches())
    plan = Channels(criterion=PCA(variance=0.9999), **ANY).plan(whole, Workbench())
    kept = list(plan.keep["first"])
    assert len(kept) == 3
    assert 8 not in kept
    maps = torch.cat([whole.model.first(inputs) for inputs, _ in whole.calibration])
    rows = maps.detach().movedim(1, -1).flatten(0, -2).double()
    rows = rows - rows.mean(0)
    left = rows - rows[:, kept] @ torch.linalg.lstsq(rows[:, kept], rows).solution
    assert left.abs().max() < 1e-5
    half = Channels(criterion=PCA(variance=0.9999), keep=0.5, **ANY).plan(whole, Workbench())
    assert len(half.keep["first"]) == 4
    assert set(kept) <= set(half.keep["first"])


def test_what_is_left_of_each_units_variance():
    root = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    covariance = root @ root.T
    found = unexplained(covariance)
    order = found.argsort(descending=True).tolist()
    picked: list[int] = []
    for unit in order[:4]:
        inside = covariance[picked][:, picked]
        across = covariance[picked, unit]
        left = covariance[unit, unit] - across @ torch.linalg.solve(inside, across)
        torch.testing.assert_close(found[unit], left)
        picked.append(unit)
    assert (found[order[4:]] == 0).all()  # the rank is four


@pytest.mark.parametrize("criterion", [ThiNet(), LassoSelection(), PCA()], ids=lambda one: one.name)
def test_without_data_it_says_so(criterion):
    whole = subject()
    bare = Subject(model=whole.model, example=whole.example)
    with pytest.raises(DataError, match=f"prune {criterion.name} has no calibration data"):
        Channels(criterion=criterion).plan(bare, Workbench())


def test_everything_gone_is_refused():
    for criterion in (PCA(), ThiNet(), LassoSelection(), L1()):
        with pytest.raises(ValidationError, match="keep"):
            Channels(criterion=criterion, keep=0.0)


class Grouped(nn.Module):
    """Only a grouped convolution reads the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).mean((2, 3))


def test_units_that_nothing_shows_the_need_for_are_refused():
    model, data = Grouped(), batches()
    whole = Subject(model=model, example=(data[0][0],), calibration=data)
    with pytest.raises(StructureError, match="nothing shows what its units are needed for"):
        Channels(criterion=ThiNet(), **ANY).plan(whole, Workbench())
