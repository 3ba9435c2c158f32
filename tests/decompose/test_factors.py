"""Factors of single layers: against closed forms, and against the layer they stand for."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tersenet.decompose import (
    CP,
    SVD,
    Decomposition,
    Factors,
    TensorTrain,
    Tucker,
    cp,
    svd,
    tensor_train,
    tucker,
)
from tersenet.decompose.factors import cost
from tersenet.decompose.forms.tensor_train import split_size
from tersenet.decompose.weighting import Weighting
from tersenet.errors import StructureError

LAYERS = {
    "linear": (nn.Linear(24, 18), (2, 5, 24)),
    "linear without bias": (nn.Linear(24, 18, bias=False), (2, 24)),
    "conv1d": (nn.Conv1d(6, 8, 5, stride=2, padding=2), (2, 6, 11)),
    "conv2d": (nn.Conv2d(8, 12, 3, stride=2, padding=1), (2, 8, 9, 9)),
    "conv2d, oblong": (nn.Conv2d(6, 8, (3, 5), padding=(0, 2), dilation=(2, 1)), (2, 6, 9, 8)),
    "conv2d, same": (nn.Conv2d(6, 8, 3, padding="same"), (2, 6, 7, 7)),
    "conv2d, reflected": (nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), (2, 6, 7, 7)),
    "conv2d, grouped": (nn.Conv2d(8, 12, 3, padding=1, groups=2), (2, 8, 6, 6)),
    "conv3d": (nn.Conv3d(5, 6, 3, stride=(1, 2, 1), padding=1), (2, 5, 5, 6, 4)),
    "1x1": (nn.Conv2d(8, 12, 1), (2, 8, 5, 5)),
}
FORMS: dict[str, Decomposition] = {
    "svd": SVD(),
    "svd spatial": SVD(split="spatial"),
    "tucker": Tucker(),
    "tucker rank-1": Tucker(spatial="rank-1"),
    "cp3": CP(iterations=20),
    "cp4": CP(layers=4, iterations=20),
    "tensor train": TensorTrain(cores=2, least=4),
}
CASES = [
    (form, layer)
    for form, method in FORMS.items()
    for layer, (module, _) in LAYERS.items()
    if method.why_not(module) is None
]


def test_every_kind_of_layer_has_a_form() -> None:
    assert {layer for _, layer in CASES} == set(LAYERS)
    assert len(CASES) >= 30


@pytest.mark.parametrize(("form", "layer"), CASES)
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_the_chain_is_the_layer_with_the_reconstructed_kernel(
    form: str, layer: str, share: float
) -> None:
    torch.manual_seed(1)
    method, (module, shape) = FORMS[form], LAYERS[layer]
    module = copy.deepcopy(module).double()  # components that cancel lose digits in float32
    full = method.full(module)
    ranks = tuple(max(1, round(share * one)) for one in full)
    chain = method.factored(module, ranks)
    whole = method.dense(chain)
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(chain(x), whole(x), atol=1e-4)
        if share == 1 and form != "tucker rank-1" and "cp" not in form:
            assert torch.allclose(whole(x), module(x), atol=1e-4)  # full rank is exact
    assert method.ranks_of(chain) == ranks
    # What is counted from shapes is what is there.
    params, macs = cost(list(chain), shape[1:])
    assert params == sum(one.numel() for one in chain.parameters())
    assert macs > 0


def test_cp_at_full_rank_is_exact() -> None:
    torch.manual_seed(0)
    kernel = torch.randn(4, 5, 2, 2)
    assert cp(kernel, rank=16, layers=3, iterations=2000).error < 1e-3


@pytest.mark.parametrize("rank", [1, 7, 17])
def test_svd_leaves_the_energy_of_the_tail(rank: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 18, dtype=torch.float64)
    left, right = svd(layer, rank=rank)
    error = np.linalg.norm((layer.weight - left.weight @ right.weight).detach().numpy())
    tail = np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False)[rank:]
    assert error == pytest.approx(np.sqrt((tail**2).sum()), rel=1e-9)


def test_grouped_svd_leaves_the_tails_of_all_groups() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, 3, groups=2, dtype=torch.float64)
    method = SVD()
    kernel = method.kernel(list(method.factored(layer, (3,))), layer).detach()
    tails = [
        np.linalg.svd(part.reshape(6, -1), compute_uv=False)[3:]
        for part in layer.weight.detach().numpy().reshape(2, 6, 4, 3, 3)
    ]
    error = float((kernel - layer.weight.detach()).square().sum())
    assert error == pytest.approx(sum(float((one**2).sum()) for one in tails), rel=1e-9)


def test_tucker_error_lies_between_the_bounds_of_its_unfoldings() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(10, 14, 3, dtype=torch.float64)
    weight = conv.weight.detach()
    errors = [
        float((tucker(conv, ranks=ranks)[1] - weight).square().sum())
        for ranks in ((3, 4), (6, 8), (9, 13), (10, 14))
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-20
    tails = [
        float(torch.linalg.svdvals(one)[rank:].square().sum())
        for one, rank in ((weight.transpose(0, 1).flatten(1), 6), (weight.flatten(1), 8))
    ]
    assert max(tails) <= errors[1] <= sum(tails)  # De Lathauwer et al. 2000, property 10


def test_hooi_improves_on_the_first_guess() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(10, 14, 3, dtype=torch.float64)
    errors = []
    for iterations in (0, 1, 10):
        method = Tucker(iterations=iterations)
        kernel = method.kernel(list(method.factored(conv, (3, 3))), conv).detach()
        errors.append(float((kernel - conv.weight.detach()).square().sum()))
    assert errors[0] > errors[1] >= errors[2]


def test_a_separable_kernel_has_rank_1_in_space() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, (3, 5), dtype=torch.float64)
    mix, rows, columns = (
        torch.randn(8, 6).double(),
        torch.randn(3).double(),
        torch.randn(5).double(),
    )
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("oi,h,w->oihw", mix, rows, columns))
    method = Tucker(spatial="rank-1")
    kernel = method.kernel(list(method.factored(conv, (6,))), conv)
    assert torch.allclose(kernel, conv.weight, atol=1e-10)


@pytest.mark.parametrize("layers", [3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_cp_finds_planted_components(layers: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(size, 5, generator=generator) for size in (12, 10, 3, 3)]
    kernel = torch.einsum("or,ir,hr,wr->oihw", *factors)
    found = cp(kernel, rank=5, layers=layers)
    assert found.error < 1e-3
    assert not found.degenerate
    noisy = kernel + 0.1 * kernel.std() * torch.randn(kernel.shape, generator=generator)
    assert cp(noisy, rank=5, layers=layers).error < 0.12


def degenerate() -> Tensor:
    """x⊗x⊗y + x⊗y⊗x + y⊗x⊗x: of rank 3, yet the limit of tensors of rank 2."""
    x, y = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    parts = ((x, x, y), (x, y, x), (y, x, x))
    return sum(torch.einsum("i,j,k->ijk", *one) for one in parts)[..., None]


def test_degenerate_components_are_flagged_and_made_small() -> None:
    wild = cp(degenerate(), rank=2)
    calm = cp(degenerate(), rank=2, stable=True)
    assert wild.degenerate
    assert calm.degenerate
    assert wild.congruence < -0.99
    assert wild.intensity > 100
    assert calm.error <= wild.error + 0.0101
    assert calm.intensity < 0.05 * wild.intensity
    assert calm.sensitivity < 0.05 * wild.sensitivity
    # Sensitivity is how the sum answers to noise on the factors, to first order.
    generator = torch.Generator().manual_seed(0)
    for found in (calm, cp(torch.randn(5, 6, 3, 3, generator=generator), rank=4)):
        moved = []
        for _ in range(300):
            noise = [
                one + 1e-4 * torch.randn(one.shape, generator=generator, dtype=torch.float64)
                for one in found.factors
            ]
            other = type(found)(tuple(noise), found.shape, 0.0)
            moved.append(float((other.kernel - found.kernel).square().sum()) / 1e-8)
        assert np.mean(moved) == pytest.approx(found.sensitivity, rel=0.15)


def test_tensor_train_matches_brute_force() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 30)
    train = tensor_train(layer, ranks=(3, 4), cores=3)
    cores = [
        core.detach().view(left, m, n, -1)
        for core, left, m, n in zip(
            train.cores, train.ranks, train.outputs, train.inputs, strict=False
        )
    ]
    whole = torch.einsum("aijb,bklc,cmnd->ikmjln", *cores).reshape(30, 24)
    x = torch.randn(7, 24)
    assert torch.allclose(train(x), x @ whole.T + layer.bias, atol=1e-5)
    assert split_size(360, 3) == (6, 6, 10)
    assert split_size(7, 2) == (1, 7)


def test_tensor_train_finds_what_svd_does_not() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 16, bias=False, dtype=torch.float64)
    with torch.no_grad():  # a Kronecker product: rank 16 as a matrix, 1 as a train
        layer.weight.copy_(torch.kron(torch.randn(4, 4), torch.randn(4, 4)))
    assert torch.linalg.matrix_rank(layer.weight) == 16
    train = tensor_train(layer, ranks=(1,), cores=2)
    assert torch.allclose(train.kernel(), layer.weight, atol=1e-10)
    assert sum(one.numel() for one in train.parameters()) == 32


def test_embedding_becomes_a_narrow_table_and_a_layer() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(40, 12, padding_idx=0)
    tokens = torch.randint(0, 40, (3, 5))
    chain = SVD().factored(table, (12,))
    assert torch.allclose(chain(tokens), table(tokens), atol=1e-5)
    assert torch.equal(chain(torch.zeros(2, dtype=torch.long)), torch.zeros(2, 12))


def test_weighted_errors_are_least_where_they_count() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(20, 16, dtype=torch.float64)
    x = torch.randn(500, 20, dtype=torch.float64) * torch.logspace(0, -2, 20).double()
    rows = torch.logspace(0, -2, 16).double()

    def errors(weighting: Weighting) -> tuple[float, float]:
        chain = SVD().factored(layer, (5,), weighting)
        missed = (layer.weight - chain[1].weight @ chain[0].weight).detach()
        return float((missed @ x.T).norm()), float((rows[:, None] * missed).norm())

    plain = errors(Weighting())
    aware = errors(Weighting(reads=(x.T @ x)[None]))
    fisher = errors(Weighting(makes=rows))
    # The least |(W − W') Xᵀ| of rank 5 is that of W Xᵀ itself, and likewise for rows.
    tails = [
        float(torch.linalg.svdvals(one)[5:].square().sum().sqrt())
        for one in ((layer.weight @ x.T).detach(), (rows[:, None] * layer.weight).detach())
    ]
    assert aware[0] == pytest.approx(tails[0], rel=0.01)
    assert fisher[1] == pytest.approx(tails[1], rel=1e-6)
    assert aware[0] < 0.9 * plain[0]
    assert fisher[1] < 0.9 * plain[1]


@pytest.mark.parametrize("ranks", [(0,), (19,), (3, 3)])
def test_impossible_ranks_are_refused(ranks: tuple[int, ...]) -> None:
    with pytest.raises(StructureError, match=r"not possible for Linear: take from 1 up to 18\.$"):
        SVD().factored(nn.Linear(24, 18), ranks)


@pytest.mark.parametrize(
    ("method", "layer", "says"),
    [
        (Tucker(), nn.Conv2d(8, 8, 3, groups=8), "depthwise"),
        (SVD(), nn.Conv2d(8, 8, 3, groups=8), "depthwise"),
        (CP(), nn.Conv2d(8, 8, 3, groups=2), "groups"),
        (Tucker(), nn.Conv2d(8, 8, 1), "1×1"),
        (CP(), nn.Conv2d(8, 8, 1), "1×1"),
        (Tucker(), nn.Conv2d(1, 8, 3), "one channel"),
        (Tucker(), nn.Linear(8, 8), "use svd"),
        (CP(layers=4), nn.Conv1d(8, 8, 3), "take layers: 3"),
        (SVD(split="spatial"), nn.Conv1d(8, 8, 3), "split: channel"),
        (SVD(), nn.Embedding(8, 8, max_norm=1.0), "renormalises"),
        (TensorTrain(), nn.Conv2d(8, 8, 3), "linear"),
        (TensorTrain(least=4), nn.Linear(7, 1), "do not split"),
        (SVD(), nn.ReLU(), "no weight"),
    ],
)
def test_layers_without_such_factors_are_refused(
    method: Decomposition, layer: nn.Module, says: str
) -> None:
    with pytest.raises(StructureError, match=says):
        method.factored(layer, (1,))


def test_a_kernel_that_is_not_finite_is_refused() -> None:
    layer = nn.Linear(8, 8)
    with torch.no_grad():
        layer.weight[2, 3] = torch.nan
    with pytest.raises(StructureError, match="1 of 64 weights of a Linear are NaN or infinite"):
        SVD().factored(layer, (2,))
    with pytest.raises(StructureError, match="NaN or infinite"):
        cp(torch.full((3, 3, 3, 3), torch.inf), rank=2)


def test_a_chain_remembers_what_it_stands_for() -> None:
    chain = Tucker().factored(nn.Conv2d(8, 12, 3, stride=2), (4, 4))
    assert isinstance(chain, Factors)
    assert chain.form == "tucker"
    assert chain.like.stride == (2, 2)
    assert len(list(chain.modules())) == 4  # itself and its three layers, no more
