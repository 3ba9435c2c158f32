"""Rows 9 to 11, 15, 17 and 23, 24, 28: pruning of single weights, and training sparse."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Edit, Subject, Workbench
from tersenet.models import preresnet_bottleneck, resnet_bottleneck
from tersenet.prune import Magnitude, damage, second_order_change, surgeon
from tersenet.prune.masks.packed import pack, unpack
from tersenet.train import Masks, TrainingOptions, fit
from tersenet.train.tasks import load_fashion_mnist


def pruned(method: Magnitude, model: nn.Module, *shape: int) -> tuple[nn.Module, Sequence[Edit]]:
    """The network after one method, as the pipeline applies it, and what was done."""
    subject = Subject(model=model.eval(), example=(torch.zeros(2, *shape),))
    plan = method.plan(subject, Workbench())
    return method.apply(model, plan, subject, Workbench())


def test_row_09_magnitude() -> None:
    """Magnitude pruning, global or per layer, by level, threshold or sensitivity.

    30 % of all convolution weights of the first deck's networks leave exactly its counts; a
    level per layer, a threshold and a multiple of the deviation leave what they say.
    """
    for build, left in ((resnet_bottleneck, 613_349), (preresnet_bottleneck, 808_408)):
        convolutions = Magnitude(sparsity=0.3, scope="global", skip=("linear",))
        model, _ = pruned(convolutions, build(), 3, 32, 32)
        weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        assert sum(p.numel() for p in model.parameters()) - zeros == left
    layer = nn.Sequential(nn.Conv2d(8, 16, 3))
    weight = layer[0].weight.detach().clone()
    by_level, _ = pruned(Magnitude(sparsity=0.25, scope="layer"), layer, 8, 4, 4)
    assert int((by_level.get_parameter("0.weight") == 0).sum()) == weight.numel() // 4
    for option, bound in (("threshold", 0.05), ("deviations", 0.05 / weight.std().item())):
        layer = nn.Sequential(nn.Conv2d(8, 16, 3))
        layer[0].weight.data.copy_(weight)
        model, _ = pruned(Magnitude(**{option: bound}), layer, 8, 4, 4)
        assert torch.equal(model.get_parameter("0.weight") == 0, weight.abs() <= 0.05)


def test_row_10_train_prune_finetune(fashion_folder: Path) -> None:
    """The train, prune, fine-tune loop.

    Pruned weights are zero after every step of SGD with momentum and of Adam; a network of half
    a million parameters loses at most two points on Fashion-MNIST at 90 % sparsity.
    """
    for optimiser in (torch.optim.SGD, torch.optim.Adam):
        model, edits = pruned(Magnitude(sparsity=0.5), nn.Sequential(nn.Linear(20, 10)), 20)
        held = Masks.of(model, edits)
        options = {"momentum": 0.9} if optimiser is torch.optim.SGD else {}
        steps = optimiser(model.parameters(), lr=0.1, **options)
        for _ in range(20):
            model(torch.randn(4, 20)).square().sum().backward()
            steps.step()
            held.hold_(model)
            assert int((model.get_parameter("0.weight") == 0).sum()) == 100

    task = load_fashion_mnist(
        folder=fashion_folder, train_images=20_000, test_images=5_000, pad=0, flip=False
    )
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(),
        nn.Linear(256, 10),
    )  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) >= 500_000

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(model(inputs), targets)

    fit(model, task.stream, loss, TrainingOptions(epochs=4, learning_rate=0.05))
    dense = task.quality(model)
    model, edits = pruned(Magnitude(sparsity=0.9), model, 1, 28, 28)
    assert dense.value - task.quality(model).value > 0.02  # it could have failed
    options = TrainingOptions(epochs=3, learning_rate=0.05)
    fit(model, task.stream, loss, options, edits=edits)
    weights = [p for p in model.parameters() if p.ndim > 1]
    zeros, count = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    assert 0.9 <= zeros / count < 0.9001
    assert dense.value > 0.85
    assert task.quality(model).drop_from(dense)[0] <= 2


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


def test_row_28_patterns() -> None:
    """N:M and block patterns.

    Each four consecutive inputs keep their two largest; blocks vanish whole; the stored form is
    as small as its count of kept weights says.
    """
    layer = nn.Sequential(nn.Linear(32, 16))
    weight = layer[0].weight.detach().clone()
    kept = pruned(Magnitude(pattern="2:4"), layer, 32)[0].get_parameter("0.weight")
    groups, dense = kept.detach().view(16, 8, 4), weight.view(16, 8, 4)
    assert torch.equal((groups != 0).sum(2), torch.full((16, 8), 2))
    largest = dense.abs().topk(2, 2).indices
    assert torch.equal(groups.gather(2, largest), dense.gather(2, largest))
    layer[0].weight.data.copy_(weight)
    blocks = Magnitude(pattern=(4, 4), sparsity=0.5, scope="layer")
    model, _ = pruned(blocks, layer, 32)
    occupied = (model.get_parameter("0.weight") != 0).view(4, 4, 8, 4).permute(0, 2, 1, 3)
    assert int(occupied.flatten(2).any(2).sum()) == int(occupied.flatten(2).all(2).sum()) == 16
    for masked in (kept, model.get_parameter("0.weight")):
        data = pack(masked)
        assert len(data) <= 16 * 32 // 2 * 4 + 16 * 32 // 8 + 64
        assert torch.equal(unpack(data), masked)
