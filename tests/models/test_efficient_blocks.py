"""Blocks against functions written out, and the cost formulas against the graph's counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tersenet.graph import macs
from tersenet.models import (
    Fire,
    GatedResidual,
    Ghost,
    InvertedResidual,
    ShuffleUnit,
    bottleneck_macs,
    densenet,
    ghost_macs,
    ghost_speedup,
    hswish,
    separable_block,
    separable_macs,
    shuffle,
    shuffle_macs,
    standard_macs,
)
from tersenet.models._shufflenet_v2 import SplitUnit
from tersenet.models.blocks import SqueezeExcitation, initialise_, round_channels, scale_channels


def counted(module: nn.Module, channels: int, side: int) -> int:
    return macs(module, (torch.zeros(2, channels, side, side),))


def shaken(module: nn.Module) -> nn.Module:
    """Batch norms that do something: random scales, shifts and statistics."""
    generator = torch.Generator().manual_seed(0)
    for one in module.modules():
        if isinstance(one, nn.BatchNorm2d):
            for value in (one.weight, one.bias, one.running_mean, one.running_var):
                value.data = torch.rand(value.shape, generator=generator) + 0.5
    return module.eval()


def normed(x: Tensor, pair: nn.Module, **options: int) -> Tensor:
    """A convolution and its batch norm by the equations."""
    conv, norm = list(pair.children())[:2]
    y = functional.conv2d(x, conv.weight, **options)
    y = (y - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
    return y * norm.weight[:, None, None] + norm.bias[:, None, None]


sizes = st.integers(1, 12)


@given(sizes, sizes, st.sampled_from([1, 3, 5]), sizes)
def test_separable_over_standard_is_the_papers_ratio(
    channels: int, filters: int, kernel: int, side: int
) -> None:
    standard = standard_macs(channels, filters, kernel=kernel, side=side)
    separable = separable_macs(channels, filters, kernel=kernel, side=side)
    assert separable / standard == pytest.approx(1 / filters + 1 / kernel**2)


def test_the_decks_separable_figures() -> None:
    assert standard_macs(32, 64, kernel=3, side=28) == 14_450_688
    assert separable_macs(32, 64, kernel=3, side=28) == 1_831_424
    assert counted(nn.Conv2d(32, 64, 3, padding=1), 32, 28) == 14_450_688
    assert counted(separable_block(32, 64), 32, 28) == 1_831_424
    assert round(1_831_424 / 14_450_688, 6) == 0.126736
    assert counted(separable_block(6, 10, stride=2), 6, 14) == separable_macs(
        6, 10, kernel=3, side=7
    )


@pytest.mark.parametrize(
    ("channels", "bottleneck", "groups"), [(24, 12, 3), (240, 60, 3), (8, 8, 1)]
)
def test_shuffle_units_cost_what_the_formula_says(
    channels: int, bottleneck: int, groups: int
) -> None:
    unit = ShuffleUnit(channels, bottleneck=bottleneck, groups=groups)
    found = counted(unit, channels, 7)
    assert found == shuffle_macs(channels, bottleneck=bottleneck, groups=groups, side=7)
    assert found < bottleneck_macs(channels, bottleneck=bottleneck, side=7)


def test_the_bottleneck_formula_is_that_of_three_convolutions() -> None:
    plain = nn.Sequential(
        nn.Conv2d(24, 12, 1), nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 24, 1)
    )
    assert counted(plain, 24, 7) == bottleneck_macs(24, bottleneck=12, side=7)


@pytest.mark.parametrize("split", [2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 3])
def test_ghost_modules_cost_what_the_formula_says(split: int, kernel: int) -> None:
    module = Ghost(64, 48, kernel=kernel, split=split)
    found = counted(module, 64, 7)
    assert found == ghost_macs(64, 48, kernel=kernel, split=split, cheap=3, side=7)
    if kernel == 3:
        saved = standard_macs(64, 48, kernel=3, side=7) / found
        assert saved == pytest.approx(ghost_speedup(64, split=split), rel=0.05)
        assert saved == pytest.approx(split, rel=0.05)


@given(st.integers(1, 6), st.integers(1, 6))
def test_shuffling_is_a_permutation_with_its_inverse(groups: int, each: int) -> None:
    channels = groups * each
    x = torch.arange(2.0 * channels * 4).view(2, channels, 2, 2)
    dealt = shuffle(x, groups=groups)
    order = [row * each + column for column in range(each) for row in range(groups)]
    assert torch.equal(dealt, x[:, order])
    assert torch.equal(shuffle(dealt, groups=each), x)


def test_hswish_is_what_the_networks_compute() -> None:
    x = torch.linspace(-6, 6, 49)
    assert torch.allclose(hswish(x), nn.Hardswish()(x), atol=1e-6)
    assert hswish(torch.tensor([-3.0, -1.5, 0.0, 3.0])).tolist() == [0, -0.375, 0, 3]


@pytest.mark.parametrize(("stride", "filters"), [(1, 8), (1, 12), (2, 8)])
def test_inverted_residuals_by_their_equations(stride: int, filters: int) -> None:
    block = shaken(InvertedResidual(8, filters, stride=stride, expansion=3))
    x = torch.randn(2, 8, 6, 6)
    y = functional.relu6(normed(x, block.conv[0]))
    y = functional.relu6(normed(y, block.conv[1], padding=1, stride=stride, groups=24))
    y = normed(y, block.conv[2:])
    assert torch.allclose(block(x), x + y if (stride, filters) == (1, 8) else y, atol=1e-4)
    assert block.residual is ((stride, filters) == (1, 8))


def test_without_expansion_there_is_no_first_convolution() -> None:
    assert counted(InvertedResidual(8, 4, stride=1, expansion=1), 8, 5) == 25 * (9 * 8 + 8 * 4)


@pytest.mark.parametrize(("stride", "filters"), [(1, 8), (1, 12), (2, 8)])
def test_gated_residuals_by_their_equations(stride: int, filters: int) -> None:
    block = shaken(GatedResidual(8, filters, inner=24, kernel=5, stride=stride))
    x = torch.randn(2, 8, 6, 6)
    y = hswish(normed(x, block.block[0]))
    y = hswish(normed(y, block.block[1], padding=2, stride=stride, groups=24))
    fc1, fc2 = block.block[2].fc1, block.block[2].fc2
    gate = functional.relu(fc1.weight[:, :, 0, 0] @ y.mean((2, 3)).T + fc1.bias[:, None])
    gate = fc2.weight[:, :, 0, 0] @ gate + fc2.bias[:, None]
    y = normed(y * (functional.relu6(gate + 3) / 6).T[:, :, None, None], block.block[3])
    assert torch.allclose(block(x), x + y if block.residual else y, atol=1e-4)
    assert block.residual is ((stride, filters) == (1, 8))
    assert fc1.weight.shape == (8, 24, 1, 1)


def test_an_open_gate_changes_nothing_and_a_closed_one_leaves_nothing() -> None:
    gate = SqueezeExcitation(4, 2)
    x = torch.randn(2, 4, 3, 3)
    nn.init.zeros_(gate.fc2.weight)
    nn.init.constant_(gate.fc2.bias, 3.0)
    assert torch.equal(gate(x), x)
    nn.init.constant_(gate.fc2.bias, -3.0)
    assert not gate(x).any()


def test_a_shuffle_unit_by_its_equations() -> None:
    unit = shaken(ShuffleUnit(24, bottleneck=12, groups=3))
    x = torch.randn(2, 24, 5, 5)
    y = functional.relu(normed(x, unit.reduce, groups=3))
    y = y[:, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]]
    y = normed(normed(y, unit.depthwise, padding=1, groups=12), unit.expand, groups=3)
    assert torch.allclose(unit(x), functional.relu(x + y), atol=1e-4)


def test_a_halving_shuffle_unit_joins_the_pooled_input() -> None:
    unit = shaken(ShuffleUnit(24, bottleneck=12, groups=3, filters=60))
    x = torch.rand(2, 24, 6, 6)
    y = unit(x)
    assert y.shape == (2, 60, 3, 3)
    assert torch.equal(y[:, :24], functional.avg_pool2d(x, 3, 2, padding=1))


def test_a_split_unit_passes_one_half_and_interleaves() -> None:
    unit = shaken(SplitUnit(8, 8, halve=False))
    x = torch.randn(2, 8, 5, 5)
    y = unit(x)
    assert torch.equal(y[:, ::2], x[:, :4])
    assert torch.allclose(y[:, 1::2], unit.branch2(x[:, 4:]), atol=1e-5)


@pytest.mark.parametrize(("filters", "split"), [(8, 2), (9, 2), (12, 3)])
def test_ghosts_are_images_of_single_maps(filters: int, split: int) -> None:
    module = shaken(Ghost(6, filters, split=split))
    x = torch.randn(2, 6, 5, 5)
    intrinsic = -(-filters // split)
    maps = functional.relu(normed(x, module.primary, padding=1))
    assert maps.shape[1] == intrinsic
    made = functional.relu(normed(maps, module.cheap, padding=1, groups=intrinsic))
    expected = torch.cat([maps, made], 1)[:, :filters]
    assert torch.allclose(module(x), expected, atol=1e-4)


def test_fire_by_its_equations() -> None:
    fire = Fire(6, squeezed=2, expanded=3)
    x = torch.randn(2, 6, 5, 5)
    y = functional.relu(functional.conv2d(x, fire.squeeze.weight, fire.squeeze.bias))
    left = functional.conv2d(y, fire.expand1x1.weight, fire.expand1x1.bias)
    right = functional.conv2d(y, fire.expand3x3.weight, fire.expand3x3.bias, padding=1)
    assert torch.allclose(fire(x), functional.relu(torch.cat([left, right], 1)), atol=1e-5)


def test_a_dense_layer_keeps_what_it_was_given() -> None:
    layer = shaken(densenet(depth=7, growth=5).stages[0][0])
    x = torch.randn(2, 16, 4, 4)
    y = layer(x)
    assert y.shape == (2, 21, 4, 4)
    assert torch.equal(y[:, :16], x)


@given(st.floats(1, 2000), st.sampled_from([4, 8]))
def test_rounded_widths_are_multiples_and_lose_at_most_a_tenth(width: float, divisor: int) -> None:
    found = round_channels(width, divisor)
    assert found % divisor == 0
    assert found >= 0.9 * width
    assert abs(found - width) <= max(divisor, width * 0.1 + divisor)


def test_widths_as_in_the_published_networks() -> None:
    assert [scale_channels(one, 0.75) for one in (16, 24, 32, 64, 96, 160)] == [
        16,
        24,
        24,
        48,
        72,
        120,
    ]


@pytest.mark.parametrize("groups", [1, 8, 64])
def test_gradients_start_with_the_variance_they_came_with(groups: int) -> None:
    """He's condition: half of the units rectified, the variance of the gradient is kept."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular", groups=groups)
    torch.manual_seed(0)
    initialise_(conv)
    x = torch.zeros(8, 64, 16, 16, requires_grad=True)
    arriving = torch.randn(8, 64, 16, 16, generator=generator)
    arriving *= torch.rand(arriving.shape, generator=generator) < 0.5
    conv(x).backward(arriving)
    assert x.grad.var().item() == pytest.approx(1.0, rel=0.12)
