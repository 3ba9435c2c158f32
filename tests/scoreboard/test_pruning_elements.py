"""Rows 9 to 11, 15, 17 and 23, 24, 28: pruning of single weights, and training sparse."""

from importlib import import_module

import pytest
import torch
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.models.resnet_bottleneck import preresnet_bottleneck, resnet_bottleneck
from tersenet.prune import damage, second_order_change, surgeon


def pruned(method, model: nn.Module, *shape: int) -> nn.Module:
    """The network after one method, as the pipeline applies it."""
    subject = Subject(model=model.eval(), example=(torch.zeros(1, *shape),))
    plan = method.plan(subject, Workbench())
    return method.apply(model, plan, subject, Workbench())[0]


@pytest.mark.not_built
def test_row_09_magnitude() -> None:
    """Magnitude pruning, global or per layer, by level, threshold or sensitivity.

    30 % of all convolution weights of the first deck's networks leave exactly its counts; a
    level per layer, a threshold and a multiple of the deviation leave what they say.
    """
    magnitude = import_module("tersenet.prune").Magnitude
    for build, left in ((resnet_bottleneck, 613_349), (preresnet_bottleneck, 808_408)):
        model = pruned(magnitude(level=0.3, scope="global"), build(), 3, 32, 32)
        weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        assert sum(p.numel() for p in model.parameters()) - zeros == left
    layer = nn.Sequential(nn.Conv2d(8, 16, 3))
    weight = layer[0].weight.detach().clone()
    by_level = pruned(magnitude(level=0.25, scope="layer"), layer, 8, 4, 4)
    assert int((by_level.get_parameter("0.weight") == 0).sum()) == weight.numel() // 4
    for option, bound in (("threshold", 0.05), ("sensitivity", 0.05 / weight.std().item())):
        layer = nn.Sequential(nn.Conv2d(8, 16, 3))
        layer[0].weight.data.copy_(weight)
        left_out = pruned(magnitude(**{option: bound}), layer, 8, 4, 4).get_parameter("0.weight")
        assert torch.equal(left_out == 0, weight.abs() <= 0.05)


@pytest.mark.not_built
def test_row_10_train_prune_finetune() -> None:
    """The train, prune, fine-tune loop.

    Pruned weights are zero after every step of SGD with momentum and of Adam; a network of half
    a million parameters loses at most two points on Fashion-MNIST at 90 % sparsity.
    """
    masks = import_module("tersenet.prune").Masks
    for optimiser in (torch.optim.SGD, torch.optim.Adam):
        model = nn.Linear(20, 10)
        held = masks.of(pruned(import_module("tersenet.prune").Magnitude(level=0.5), model, 20))
        options = {"momentum": 0.9} if optimiser is torch.optim.SGD else {}
        steps = optimiser(model.parameters(), lr=0.1, **options)
        for _ in range(5):
            model(torch.randn(4, 20)).square().sum().backward()
            steps.step()
            held.hold(model)
            assert int((model.weight == 0).sum()) == 100
    study = import_module("tersenet.study").sparse_fashion_mnist(sparsity=0.9)
    assert study.params >= 500_000
    assert study.drop_points <= 2


@pytest.mark.not_built
def test_row_11_agp_schedule() -> None:
    """The automated gradual pruning schedule (Zhu and Gupta 2017).

    s_t = s_f + (s_i - s_f)(1 - (t - t0)/span)^3 at five epochs, and exactly s_f at the end.
    """
    schedule = import_module("tersenet.prune").Gradual(start=0.1, end=0.9, first=2, last=12)
    for epoch in (2, 4, 7, 10, 12):
        assert schedule.at(epoch) == pytest.approx(0.9 - 0.8 * (1 - (epoch - 2) / 10) ** 3)
    assert schedule.at(12) == 0.9


def test_row_15_taylor_obd_obs() -> None:
    """Taylor, optimal brain damage and optimal brain surgeon.

    On a quadratic loss the second-order estimate is the true change of the loss, and the
    surgeon's update is the constrained minimum.
    """
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(6)
    w = torch.randn(6, generator=generator, dtype=torch.float64)
    saliency, change = surgeon(w, hessian, index=2)
    kept = [0, 1, 3, 4, 5]
    # Minimise over the kept change d: 1/2 d H d with the pruned entry fixed at -w[2].
    best = torch.zeros(6, dtype=torch.float64)
    best[2] = -w[2]
    block = hessian[kept][:, kept]
    best[kept] = torch.linalg.solve(block, hessian[kept, 2] * w[2])
    assert torch.allclose(change, best)
    assert saliency.item() == pytest.approx((0.5 * best @ hessian @ best).item())
    salient = damage(w, hessian.diagonal())
    assert torch.allclose(salient, 0.5 * hessian.diagonal() * w**2)
    gradient = torch.randn(6, generator=generator, dtype=torch.float64)
    assert second_order_change(-w, gradient, hessian).item() == pytest.approx(
        (-gradient @ w + 0.5 * w @ hessian @ w).item()
    )


@pytest.mark.not_built
def test_row_17_sparse_regularisers() -> None:
    """Group lasso, l0 gates, l1 and biased weight decay.

    Training a least-squares problem, the share of zeros never falls as the weight of each
    regulariser rises.
    """
    prune = import_module("tersenet.prune")
    for regulariser in (prune.GroupLasso, prune.HardConcrete, prune.Lasso, prune.BiasedDecay):
        shares = [prune.sparsity_after(regulariser(strength=s)) for s in (0.0, 0.01, 0.1, 1.0)]
        assert shares == sorted(shares)
        assert shares[-1] > shares[0]


@pytest.mark.not_built
def test_row_23_lottery_ticket() -> None:
    """Iterative magnitude pruning to a winning ticket.

    Density after k rounds of 20 % is 0.8^k within rounding; at 10 % or less the ticket beats a
    random mask in the mean of three seeds.
    """
    ticket = import_module("tersenet.prune").Lottery(rate=0.2, rounds=11)
    densities = ticket.densities(weights=100_000)
    for done, density in enumerate(densities):
        assert density == pytest.approx(0.8**done, abs=1e-4)
    found = import_module("tersenet.study").lottery(rounds=11, seeds=3)
    assert found.ticket > found.random_mask


@pytest.mark.not_built
def test_row_24_rewinding() -> None:
    """Lottery tickets with rewinding.

    Kept weights return to those of step k bit for bit; the random-mask and re-initialised
    controls are produced beside the ticket.
    """
    found = import_module("tersenet.study").lottery(rounds=2, seeds=1, rewind_step=20)
    for name, weight in found.rewound.items():
        mask = found.mask[name]
        assert torch.equal(weight[mask], found.at_step_20[name][mask])
    assert found.controls.keys() == {"reinitialised", "random_mask"}


@pytest.mark.not_built
def test_row_28_patterns() -> None:
    """N:M and block patterns.

    Each four consecutive inputs keep their two largest; blocks vanish whole; the stored form is
    as small as its count of kept weights says.
    """
    prune = import_module("tersenet.prune")
    weight = torch.randn(16, 32)
    kept = prune.two_of_four(weight)
    assert torch.equal((kept != 0).view(16, 8, 4).sum(2), torch.full((16, 8), 2))
    blocks = prune.blocks(weight, shape=(4, 4), level=0.5)
    occupied = (blocks != 0).view(4, 4, 8, 4).any(3).any(1)
    assert int(occupied.sum()) == 16
    assert len(prune.packed(kept)) <= 16 * 32 // 2 * 4 + 16 * 32 // 8 + 64
