"""Blocks read from the graph: what can go whole, what it takes along, and what must stay."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Edit, EditKind
from tersenet.export.onnx_file import convert
from tersenet.graph import macs, parameters
from tersenet.graph.blocks import (
    Program,
    Zero,
    drop_blocks,
    find_blocks,
    prove_drops,
    replay_removals,
)
from tersenet.models import InvertedResidual, resnet, vgg_small
from tersenet.models.blocks import conv_norm

IMAGE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
WORDS = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(1))


def stirred(model: nn.Module) -> nn.Module:
    """Gives batch norms statistics of a trained network, so that nothing is the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind(0))
        return self.out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """A transformer's layer, its norms before the branches or behind the sums."""

    def __init__(self, *, post: bool) -> None:
        super().__init__()
        self.post, self.attend = post, Attention()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        if self.post:
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.mlp(x))
        x = x + scale * self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self, *, post: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(post=post) for _ in range(3))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, scale=1.0)  # more arguments than one: what stands in takes them too
        return self.head(x.mean(1))


class Flat(nn.Module):
    """Sums stand in the network's own forward(): no module is a block."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.branches = nn.ModuleList(Attention() for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        for norm, branch in zip(self.norms, self.branches, strict=True):
            x = x + branch(norm(x))
        return self.head(x.mean(1))


class Unclipped(nn.Module):
    """A block whose input may be negative: its last ReLU stays when its branch goes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.block = Clipping()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


class Clipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(x) + x)


def names(model: nn.Module, example: Tensor = IMAGE) -> list[str]:
    return [one.name for one in find_blocks(model, (example,)).blocks]


def without(
    model: nn.Module, dropped: list[str], example: Tensor = IMAGE
) -> tuple[nn.Module, list[Edit]]:
    smaller = copy.deepcopy(model)
    return smaller, drop_blocks(smaller, dropped, (example,))


def test_residual_blocks_of_one_shape_can_go_and_the_others_stay():
    found = find_blocks(resnet(depth=14), (IMAGE,))
    assert [one.name for one in found.blocks] == ["stage1.0", "stage1.1", "stage2.1", "stage3.1"]
    assert all(one.kind == "residual" for one in found.blocks)
    # 3·3·16·16 weights twice at 12², two norms of 16 scales and shifts
    assert found.blocks[0].params == 2 * 9 * 16 * 16 + 4 * 16
    assert found.blocks[0].macs == 2 * 9 * 16 * 16 * 12 * 12
    assert found.blocks[0].ends == ("stage1.0.bn2",)
    assert {one.site for one in found.skips} == {"conv1", "stage2.0", "stage3.0", "linear"}


def test_it_is_read_from_the_graph_not_from_names():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage1 = nn.Conv2d(3, 3, 3)  # a residual block by its name only
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.stage1(x)))

    found = find_blocks(Plain(), (IMAGE,))
    assert [one.name for one in found.blocks] == ["a"]
    reasons = {one.site: one.reason for one in found.skips}
    assert reasons == {
        "stage1": "it reads the network's input",
        "b": "it makes the network's output",
    }


def bottlenecks() -> nn.Module:
    """Inverted residuals without an activation behind the sum."""
    blocks = [InvertedResidual(8, 8, stride=1, expansion=2) for _ in range(3)]
    return nn.Sequential(conv_norm(3, 8), *blocks, nn.Flatten(), nn.Linear(8 * 12 * 12, 4))


CASES = {
    "post-activation": (lambda: resnet(depth=14), ["stage1.1", "stage3.1"], IMAGE),
    "bottlenecks": (bottlenecks, ["1", "3"], IMAGE),
    "unequal widths": (
        lambda: vgg_small(width=8),
        ["features.3", "features.7", "features.14"],
        IMAGE,
    ),
    "pre-norm": (Transformer, ["layers.0", "layers.2"], WORDS),
    "post-norm": (lambda: Transformer(post=True), ["layers.1"], WORDS),
    "sums in forward": (Flat, ["branches.1"], WORDS),
    "a last ReLU that stays": (Unclipped, ["block"], IMAGE),
}


@pytest.mark.parametrize("case", CASES)
def test_dropped_blocks_are_absent_and_proved(case: str):
    make, dropped, example = CASES[case]
    torch.manual_seed(0)
    model = stirred(make())
    found = {one.name: one for one in find_blocks(model, (example,)).blocks}
    smaller, edits = without(model, dropped, example)
    for proof in prove_drops(model, smaller, edits, (example,)):
        assert proof.holds
        assert proof.effect is not None
        assert proof.effect > 1e-3
    if not any(found[name].width for name in dropped):
        saved = sum(found[name].params for name in dropped)
        assert parameters(model)[0] - parameters(smaller)[0] == saved
        saved = sum(found[name].macs for name in dropped)
        assert macs(model, (example,)) - macs(smaller, (example,)) == saved
    assert not any(name.startswith(f"{dropped[0]}.") for name in smaller.state_dict())
    fresh = replay_removals(make(), edits)
    fresh.load_state_dict(smaller.state_dict())
    assert torch.equal(fresh.eval()(example), smaller(example))
    assert smaller(example[:1]).shape == (1, *smaller(example).shape[1:])


def test_a_dropped_block_leaves_no_node_in_the_file():
    model = stirred(resnet(depth=14))
    smaller, _ = without(model, ["stage1.0", "stage2.1"])
    count = {
        kind: [
            sum(node.op_type == kind for node in convert(one, (IMAGE,)).proto.graph.node)
            for one in (model, smaller)
        ]
        for kind in ("Conv", "Add", "Relu")
    }
    # A block has two convolutions, one sum and two ReLUs.
    assert count == {"Conv": [15, 11], "Add": [6, 4], "Relu": [13, 9]}
    flat, _ = without(Flat().eval(), ["branches.0"], WORDS)
    kinds = [node.op_type for node in convert(flat, (WORDS,)).proto.graph.node]
    assert kinds.count("Softmax") == 1
    assert isinstance(flat.branches[0], Zero)


def test_the_proof_fails_for_another_network():
    model = stirred(resnet(depth=14))
    smaller, edits = without(model, ["stage1.1"])
    with torch.no_grad():
        smaller.stage3[1].conv1.weight[0] *= 1.01
    assert not prove_drops(model, smaller, edits, (IMAGE,))[-1].holds
    other, _ = without(model, ["stage1.0"])
    assert not prove_drops(model, other, edits, (IMAGE,))[-1].holds


def test_a_branch_at_zero_is_what_hooks_make_of_it():
    model = stirred(resnet(depth=14))
    smaller, _ = without(model, ["stage2.1", "stage3.1"])
    for block in (model.stage2[1], model.stage3[1]):
        block.bn2.register_forward_hook(lambda _module, _inputs, output: output * 0)
    torch.testing.assert_close(smaller(IMAGE), model(IMAGE), rtol=1e-5, atol=1e-6)


def test_channels_that_remain_are_read_by_the_next_layer():
    model = stirred(vgg_small(width=8))
    smaller, edits = without(model, ["features.7"])
    # 8 → 16 went: the next convolution reads the first 8 of its 16 inputs.
    assert torch.equal(smaller.features[10].weight, model.features[10].weight[:, :8])
    assert {edit.kind for edit in edits} == {EditKind.SLICE, EditKind.DROP}


@pytest.mark.parametrize("gone", [["features.10", "features.7"], "all"])
def test_layers_of_equal_widths_shrink_with_the_neighbour_that_goes(gone: list[str] | str):
    """Between two that go, as many channels are made as the first one left."""
    model = stirred(vgg_small(width=8))
    names = [one.name for one in find_blocks(model, (IMAGE,)).blocks] if gone == "all" else gone
    smaller, edits = without(model, names)
    assert all(one.holds for one in prove_drops(model, smaller, edits, (IMAGE,)))
    assert sum(isinstance(one, nn.Conv2d) for one in smaller.modules()) == 6 - len(names)


def test_a_network_that_asks_its_layers_for_more_keeps_them():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    found = find_blocks(encoder, (WORDS,))
    assert [one.name for one in found.blocks] == ["layers.1"]
    (kept,) = [one for one in found.skips if one.site == "layers.0"]
    assert "does not run without it" in kept.reason


def test_a_program_computes_what_the_network_does():
    model = stirred(bottlenecks())
    program = Program(model, (IMAGE,))
    torch.testing.assert_close(program(IMAGE)[0], model(IMAGE))
