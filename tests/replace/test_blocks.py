"""The blocks: what they cost, and that their kernels are the nearest ones."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.graph import macs
from tersenet.models import bottleneck_macs, ghost_macs, separable_macs, shuffle_macs, standard_macs
from tersenet.replace import (
    ChannelBottleneck,
    DepthwiseSeparable,
    GhostConvolution,
    GhostModule,
    PlainConvolution,
    Replacement,
    ShuffledGroups,
    cp,
    tucker2,
)

METHODS: dict[str, Replacement] = {
    "separable": DepthwiseSeparable(),
    "separable, 3 each": DepthwiseSeparable(multiplier=3),
    "bottleneck": ChannelBottleneck(width=0.4),
    "ghost": GhostModule(),
    "ghost of three": GhostModule(split=3, cheap=5),
    "shuffle": ShuffledGroups(),
    "shuffle of one": ShuffledGroups(groups=1, width=1.5),
    "shuffle of three": ShuffledGroups(groups=3),
}


def described(conv: nn.Conv2d, side: int) -> PlainConvolution:
    x = torch.zeros(1, conv.in_channels, side, side, dtype=conv.weight.dtype)
    return PlainConvolution(
        channels=conv.in_channels,
        filters=conv.out_channels,
        kernel=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        padding_mode=conv.padding_mode,
        bias=conv.bias is not None,
        reads=(side, side),
        makes=tuple(conv(x).shape[2:]),
    )


def fitted(method: Replacement, conv: nn.Conv2d, side: int = 12) -> tuple[nn.Module, float]:
    one = described(conv, side)
    sizes = method.sizes(one)
    assert not isinstance(sizes, str)
    block = method.block(one, sizes).double()
    with torch.no_grad():
        bias = None if conv.bias is None else conv.bias.double()
        return block, method.fit_(block, conv.weight.double(), bias)


def conv_of(seed: int = 0, **options: Any) -> nn.Conv2d:
    torch.manual_seed(seed)
    settings = {"in_channels": 12, "out_channels": 18, "kernel_size": 3, "padding": 1} | options
    return nn.Conv2d(**settings)


def gap(block: nn.Module, conv: nn.Conv2d, side: int = 12, margin: int = 0) -> float:
    """|block(x) - conv(x)|² over |conv(x) - bias|² on noise, within a margin of the image."""
    x = torch.randn(64, conv.in_channels, side, side, dtype=torch.float64)
    with torch.no_grad():
        y, found = conv.double()(x), block(x)
        plain = y if conv.bias is None else y - conv.bias[:, None, None]
    inner = slice(margin, y.shape[2] - margin)
    missed, whole = (one[:, :, inner, inner].square().sum() for one in (found - y, plain))
    return float(missed / whole)


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "halving": {"stride": 2},
    "wide steps": {"dilation": 2, "padding": 2},
    "5×3": {"kernel_size": (5, 3), "padding": (2, 1)},
    "circular": {"padding_mode": "circular", "bias": False},
    "same": {"padding": "same"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METHODS)
def test_macs_are_those_of_the_modules(name: str, form: str) -> None:
    method, one = METHODS[name], described(conv_of(**FORMS[form]), 12)
    sizes = method.sizes(one)
    assert not isinstance(sizes, str)
    assert method.macs(one, sizes) == counted(method.block(one, sizes))
    assert one.macs == counted(one.plain())


def counted(module: nn.Module) -> int:
    """Each output of a convolution costs as many as a filter has weights."""
    found = 0

    def count(one: nn.Module, _: object, output: Tensor) -> None:
        nonlocal found
        found += output.numel() * one.weight[0].numel()

    for one in module.modules():
        if isinstance(one, nn.Conv2d):
            one.register_forward_hook(count)
    module(torch.zeros(1, 12, 12, 12))
    return found


@pytest.mark.parametrize("name", ["ghost", "shuffle"])
def test_the_graph_counts_the_same(name: str) -> None:
    method, one = METHODS[name], described(conv_of(stride=2), 12)
    sizes = method.sizes(one)
    assert not isinstance(sizes, str)
    assert method.macs(one, sizes) == macs(method.block(one, sizes), (torch.zeros(2, 12, 12, 12),))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METHODS)
def test_what_is_lost_of_the_kernel_is_lost_on_noise(name: str, form: str) -> None:
    """White noise weighs all entries of the kernel alike, whatever the block is made of."""
    conv = conv_of(**FORMS[form])
    block, lost = fitted(METHODS[name], conv)
    margin = 0 if not isinstance(block, GhostConvolution) else 3  # ghosts see zeros at the border
    assert 0.05 < lost < 1
    assert gap(block, conv, side=24, margin=margin) == pytest.approx(lost, rel=0.12)


def test_costs_are_the_decks() -> None:
    """Deck 2's cost of each block, for channels kept as they are at stride 1."""
    conv = nn.Conv2d(24, 24, 3, padding=1)
    one = described(conv, 7)
    assert one.macs == standard_macs(24, 24, kernel=3, side=7)

    def cost(method: Replacement) -> int:
        sizes = method.sizes(one)
        assert not isinstance(sizes, str)
        return method.macs(one, sizes)

    separable = cost(DepthwiseSeparable())
    assert separable == separable_macs(24, 24, kernel=3, side=7)
    assert separable / one.macs == pytest.approx(1 / 24 + 1 / 9)
    assert cost(ChannelBottleneck(width=0.5)) == bottleneck_macs(24, bottleneck=12, side=7)
    shuffled = cost(ShuffledGroups(groups=2, width=0.5))
    assert shuffled == shuffle_macs(24, bottleneck=12, groups=2, side=7)
    assert shuffled < bottleneck_macs(24, bottleneck=12, side=7)
    for split in (2, 3):
        ghost = cost(GhostModule(split=split))
        assert ghost == ghost_macs(24, 24, kernel=3, split=split, cheap=3, side=7)
        assert one.macs / ghost == pytest.approx(split * 24 / (split + 24 - 1))


@pytest.mark.parametrize("multiplier", [1, 2, 9])
def test_separable_is_the_truncation_of_each_channels_svd(multiplier: int) -> None:
    conv = conv_of(bias=False)
    block, lost = fitted(DepthwiseSeparable(multiplier=multiplier), conv)
    tail = whole = 0.0
    for channel in range(12):
        values = torch.linalg.svdvals(conv.weight[:, channel].double().flatten(1)).square()
        tail, whole = tail + values[multiplier:].sum().item(), whole + values.sum().item()
    assert lost == pytest.approx(tail / whole, abs=1e-12)
    if multiplier == 9:
        assert gap(block, conv) < 1e-20


def compose(block: nn.Module, channels: int, side: int = 3) -> Tensor:
    """The kernel of a linear block of stride 1, from its answers to single pixels."""
    reach = 2 * side + 1
    x = torch.zeros(channels, channels, reach, reach, dtype=torch.float64)
    x[range(channels), range(channels), side, side] = 1
    with torch.no_grad():
        answers = block(x) - block(torch.zeros_like(x[:1]))
    return answers.flip(2, 3).transpose(0, 1)[:, :, side - 1 : side + 2, side - 1 : side + 2]


def planted(method: Replacement, conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution that some block of this kind computes exactly."""
    one = described(conv, 12)
    sizes = method.sizes(one)
    assert not isinstance(sizes, str)
    torch.manual_seed(3)
    block = method.block(one, sizes).double()
    with torch.no_grad():
        conv.weight.copy_(compose(block.eval(), conv.in_channels))
    return conv


@pytest.mark.parametrize(
    "method",
    [DepthwiseSeparable(), DepthwiseSeparable(multiplier=2), ChannelBottleneck(width=0.4)],
    ids=["separable", "separable, 2 each", "bottleneck"],
)
def test_a_kernel_of_the_blocks_form_is_found_again(method: Replacement) -> None:
    conv = planted(method, conv_of().double())
    block, lost = fitted(method, conv)
    assert lost < 1e-12
    assert gap(block, conv) < 1e-12


@pytest.mark.parametrize(("groups", "width"), [(1, 0.5), (2, 0.67), (3, 0.5), (3, 1.5)])
def test_a_kernel_of_shuffled_groups_is_found_again(groups: int, width: float) -> None:
    method = ShuffledGroups(groups=groups, width=width)
    conv = planted(method, conv_of().double())
    block, lost = fitted(method, conv)
    assert lost < 2e-3  # alternating least squares come near, sweep by sweep
    assert gap(block, conv) == pytest.approx(lost, rel=0.2, abs=1e-9)


def test_ghosts_that_are_there_are_found() -> None:
    """Six filters of 1×1 support in a 3×3 kernel, and a 3×3 image of each, in mixed order."""
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 12, 3, padding=1).double()
    seeds = torch.randn(6, 5, dtype=torch.float64)
    images = torch.randn(6, 3, 3, dtype=torch.float64)
    order = torch.randperm(12)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[order[:6], :, 1, 1] = seeds
        conv.weight[order[6:]] = 0.1 * seeds[:, :, None, None] * images[:, None]
    block, lost = fitted(GhostModule(), conv)
    assert lost < 1e-6
    # At the very border a ghost sees no bias of its map where the image has ended.
    assert gap(block, conv, margin=1) < 1e-6


def test_a_ghosts_kernel_is_the_least_squares_solution() -> None:
    conv = conv_of(bias=False).double()
    block, _ = fitted(GhostModule(), conv)
    assert isinstance(block, GhostConvolution)
    for j in range(18):
        place = int(block.order[j])
        if place < 9:
            assert torch.equal(block.primary.weight[place], conv.weight[j])
            continue
        maps = block.primary.weight[place - 9]
        columns = []
        for down, right in itertools.product(range(3), range(3)):
            moved = torch.zeros(12, 5, 5, dtype=torch.float64)
            moved[:, down : down + 3, right : right + 3] = maps.detach()
            columns.append(moved.flatten())
        wanted = functional.pad(conv.weight[j].detach(), (1, 1, 1, 1)).flatten()
        expected = torch.linalg.lstsq(torch.stack(columns, 1), wanted).solution
        # A tap left of the centre reads the map on the left, which is the filter moved left.
        assert torch.allclose(block.cheap.weight[place - 9, 0].flatten(), expected, atol=1e-6)


def test_chosen_filters_explain_more_than_the_first_ones() -> None:
    conv = conv_of(out_channels=16, bias=False)
    with torch.no_grad():
        conv.weight[8:] *= 3  # the strong filters stand last
    block, _ = fitted(GhostModule(), conv)
    assert set(block.order[8:].tolist()) == set(range(8))


def test_tucker_factors_are_orthonormal_and_beat_truncated_unfoldings() -> None:
    torch.manual_seed(0)
    weight = torch.randn(10, 8, 3, 3, dtype=torch.float64)
    u, core, v = tucker2(weight, 4)
    for factor in (u, v):
        assert torch.allclose(factor.mT @ factor, torch.eye(4, dtype=torch.float64), atol=1e-10)
    out = torch.linalg.svd(weight.flatten(1), full_matrices=False).U[:, :4]
    into = torch.linalg.svd(weight.transpose(0, 1).flatten(1), full_matrices=False).U[:, :4]
    plain = torch.einsum("ncxy,nr,cs->rsxy", weight, out, into)
    assert core.norm() > plain.norm()
    rebuilt = torch.einsum("rsxy,nr,cs->ncxy", core, u, v)
    missed = (weight - rebuilt).square().sum()
    assert missed == pytest.approx((weight.square().sum() - core.square().sum()).item())


def test_the_best_rank_one_term_of_a_diagonal_tensor_is_its_largest_entry() -> None:
    tensor = torch.zeros(1, 3, 3, 3, dtype=torch.float64)
    tensor[0, range(3), range(3), range(3)] = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    a, b, c = cp(tensor, 1)
    found = torch.einsum("pnr,pcr,pkr->pnck", a, b, c)
    expected = torch.zeros_like(tensor)
    expected[0, 1, 1, 1] = 3
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (DepthwiseSeparable(multiplier=10), {}, "more than its rank, 9"),
        (ShuffledGroups(groups=5), {}, "do not split into 5 groups"),
        (GhostModule(cheap=2), {}, "even kernel"),
        (GhostModule(), {"out_channels": 1}, "one filter"),
    ],
)
def test_blocks_that_cannot_be_are_told(
    method: Replacement, options: dict[str, Any], words: str
) -> None:
    reason = method.sizes(described(conv_of(**options), 12))
    assert isinstance(reason, str)
    assert words in reason
