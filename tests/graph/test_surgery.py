"""Removal against the original with the same channels zeroed, for each kind of coupling."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Edit, EditKind
from tersenet.errors import StructureError
from tersenet.graph import macs, parameters, prove, remove, replay, trace
from tersenet.models.resnet_cifar import resnet

IMAGE = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    """Named parts and a forward written down."""

    def __init__(self, forward, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.written = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.written(self, x)


def _conv(channels: int, wider: int, kernel: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(channels, wider, kernel, padding=kernel // 2, **options)


def residual(net, x):
    x = functional.relu_(net.bn1(net.a(x)))
    x += net.bn2(net.b(x))
    return net.head(net.c(x).mean((2, 3)))


def inverted(net, x):
    y = functional.relu6(net.bn1(net.expand(x)))
    y = functional.hardswish(net.bn2(net.depthwise(y)))
    return net.head(functional.adaptive_avg_pool2d(net.project(y), 1).flatten(1))


def concatenated(net, x):
    x = torch.cat([net.a(x).sigmoid(), net.b(x)], 1)
    return net.head(torch.flatten(functional.max_pool2d(net.c(x), 2), 1))


def flattened(net, x):
    x = net.bn(net.a(x)).relu()
    x = functional.dropout(x, 0.5, net.training)
    return net.head(net.hidden(x.reshape(x.shape[0], -1)).relu())


def grouped(net, x):
    return net.head(net.c(net.g(net.a(x)).relu()).mean(dim=[2, 3]))


def transposed(net, x):
    return net.head(net.up(net.a(x)).relu()[:, :, ::2, ::2].permute(0, 2, 3, 1))


def one_dimensional(net, x):
    return net.head(net.a(x.flatten(2)).relu().amax(-1))


def multiplied(net, x):
    x = net.a(x).mean((2, 3))
    return torch.addmm(net.head.bias, net.act(x), net.head.weight.t())


def squeezed(net, x):
    x = net.a(x)
    gate = net.gate(functional.adaptive_avg_pool2d(x, 1)).sigmoid()
    return net.head((x * gate).flatten(2).mean(2))


def padded(net, x):
    x = net.a(x)
    wider = functional.pad(x, (1, 1, 0, 0, 2, 2))[:, :, :, 1:-1]
    return net.head((net.b(x) + wider).mean((2, 3)))


def shared(net, x):
    x = net.a(x)
    return net.head(net.b(net.b(x).relu()).mean((2, 3)))


CASES = {
    "residual": Net(
        residual,
        a=_conv(3, 8, bias=False),
        bn1=nn.BatchNorm2d(8),
        b=_conv(8, 8),
        bn2=nn.BatchNorm2d(8),
        c=_conv(8, 12),
        head=nn.Linear(12, 5),
    ),
    "inverted": Net(
        inverted,
        expand=_conv(3, 8, 1),
        bn1=nn.BatchNorm2d(8),
        depthwise=_conv(8, 16, groups=8),
        bn2=nn.BatchNorm2d(16),
        project=_conv(16, 6, 1),
        head=nn.Linear(6, 5),
    ),
    "concatenated": Net(
        concatenated,
        a=_conv(3, 4),
        b=_conv(3, 6),
        c=_conv(10, 8),
        head=nn.Linear(8 * 16, 5),
    ),
    "flattened": Net(
        flattened,
        a=_conv(3, 8),
        bn=nn.BatchNorm2d(8),
        hidden=nn.Linear(512, 12),
        head=nn.Linear(12, 5),
    ),
    "grouped": Net(
        grouped, a=_conv(3, 8), g=_conv(8, 12, groups=2), c=_conv(12, 8), head=nn.Linear(8, 5)
    ),
    "transposed": Net(
        transposed, a=_conv(3, 8), up=nn.ConvTranspose2d(8, 6, 2, 2), head=nn.Linear(6, 5)
    ),
    "one-dimensional": Net(one_dimensional, a=nn.Conv1d(3, 8, 3), head=nn.Linear(8, 5)),
    "multiplied": Net(multiplied, a=_conv(3, 8), act=nn.PReLU(8), head=nn.Linear(8, 5)),
    "squeezed": Net(squeezed, a=_conv(3, 8), gate=_conv(8, 8, 1), head=nn.Linear(8, 5)),
    "padded": Net(padded, a=_conv(3, 8), b=_conv(8, 12), head=nn.Linear(12, 5)),
    "shared": Net(shared, a=_conv(3, 8), b=_conv(8, 8), head=nn.Linear(8, 5)),
    "option A": resnet(depth=8, option="A"),
    "option B": resnet(depth=8, option="B"),
}
UNITS = {
    "residual": {"a + 1 more": 8, "c": 12},
    "inverted": {"expand + 1 more": 8, "project": 6},
    "concatenated": {"a": 4, "b": 6, "c": 8},
    "flattened": {"a": 8, "hidden": 12},
    "grouped": {"a": 4, "g": 6, "c": 8},
    "transposed": {"a": 8, "up": 6},
    "one-dimensional": {"a": 8},
    "multiplied": {"a": 8},
    "squeezed": {"a + 1 more": 8},
    "padded": {"a + 1 more": 8},
    "shared": {"a + 1 more": 8},
    "option A": {
        "conv1 + 3 more": 16,
        "stage1.0.conv1": 16,
        "stage2.0.conv1": 32,
        "stage3.0.conv1": 64,
    },
    "option B": {
        "conv1 + 1 more": 16,
        "stage1.0.conv1": 16,
        "stage2.0.conv1": 32,
        "stage2.0.conv2 + 1 more": 32,
        "stage3.0.conv1": 64,
        "stage3.0.conv2 + 1 more": 64,
    },
}
"""The groups and sizes worked out by hand."""


@pytest.fixture(params=CASES, scope="module")
def case(request):
    model = copy.deepcopy(CASES[request.param])
    _randomise(model)
    return request.param, model, trace(model, (IMAGE,))


def _randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)


def test_groups_are_those_worked_out_by_hand(case):
    name, _, graph = case
    assert {group.name: group.size for group in graph.groups} == UNITS[name]


def test_smaller_equals_masked_in_float32(case):
    _, model, graph = case
    keep = {group.name: range(1, group.size, 2) for group in graph.groups}
    smaller = copy.deepcopy(model)
    smaller, edits = remove(smaller, graph, keep)
    masked = copy.deepcopy(model).eval()
    tensors = {**dict(masked.named_parameters()), **dict(masked.named_buffers())}
    for edit in edits:  # by indexing, where prove fills
        gone = [slice(None)] * tensors[edit.site].ndim
        dim, size = edit.data["dim"], tensors[edit.site].shape[edit.data["dim"]]
        gone[dim] = [i for i in range(size) if i not in edit.data["keep"]]
        tensors[edit.site].data[tuple(gone)] = 0
    with torch.no_grad():
        expected, found = masked(IMAGE), smaller.eval()(IMAGE)
        full = model.eval()(IMAGE)
    scale = expected.abs().max()
    assert (found - expected).abs().max() <= 1e-5 * scale
    assert (full - expected).abs().max() > 1e-3 * scale
    proof = prove(model, smaller, edits, (IMAGE,))
    assert proof.holds
    assert proof.effect > 1e-3
    # any batch size, not only the traced one
    assert smaller(IMAGE[:1]).shape == model(IMAGE[:1]).shape


def test_costs_are_foretold(case):
    _, model, graph = case
    keep = {group.name: range(0, group.size, 3) for group in graph.groups}
    smaller = copy.deepcopy(model)
    smaller, _ = remove(smaller, graph, keep)
    assert graph.costs(keep) == (parameters(smaller)[0], macs(smaller, (IMAGE,)))


def test_what_one_unit_saves_is_foretold(case):
    _, model, graph = case
    before = (parameters(model)[0], macs(model, (IMAGE,)))
    for group in graph.groups:
        params, least = graph.costs({group.name: range(1, group.size)})
        assert before[0] - params == group.params_per_channel
        assert before[1] - least == pytest.approx(group.macs_per_channel, abs=len(graph.sites))


def test_attributes_follow_and_edits_replay(case):
    name, model, graph = case
    keep = {group.name: range(group.size // 2) for group in graph.groups}
    smaller = copy.deepcopy(model)
    smaller, edits = remove(smaller, graph, keep)
    again = replay(copy.deepcopy(CASES[name]), edits)
    again.load_state_dict(smaller.state_dict())
    assert torch.equal(again.eval()(IMAGE), smaller.eval()(IMAGE))
    assert str(again) == str(smaller)
    for one in smaller.modules():
        if isinstance(one, nn.Conv2d):
            assert one.weight.shape[:2] == (one.out_channels, one.in_channels // one.groups)
        if isinstance(one, nn.Linear):
            assert one.weight.shape == (one.out_features, one.in_features)
        if isinstance(one, nn.BatchNorm2d):
            assert one.running_mean.shape == (one.num_features,)


def test_shapes_are_told():
    model = resnet(depth=8)
    _, edits = remove(model, trace(model, (IMAGE,)), {"stage1.0.conv1": range(8)})
    found = {edit.site: (edit.before, edit.after, dict(edit.data)) for edit in edits}
    kept = {"dim": 1, "keep": list(range(8))}
    assert found["stage1.0.conv2.weight"] == ("16×16×3×3", "16×8×3×3", kept)
    assert len(edits) == 6  # two weights, and scale, shift, mean, variance


def test_zeroed_activations_agree():
    """The same removal, with channels zeroed where they appear instead of in the weights."""
    model = resnet(depth=8, option="B").eval()
    _randomise(model)
    graph = trace(model, (IMAGE,))
    keep = {"stage2.0.conv2 + 1 more": range(20), "stage3.0.conv1": range(10, 64)}
    smaller = copy.deepcopy(model)
    smaller, _ = remove(smaller, graph, keep)

    def zero(indices):
        def hook(_module, _inputs, output):
            output = output.clone()
            output[:, indices] = 0
            return output

        return hook

    stage = model.stage2[0]
    for module, gone in [
        (stage.bn2, range(20, 32)),
        (stage.shortcut[1], range(20, 32)),
        (model.stage3[0].bn1, range(10)),
    ]:
        module.register_forward_hook(zero(list(gone)))
    with torch.no_grad():
        expected, found = model(IMAGE), smaller(IMAGE)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_tied_weights_stay_tied():
    model = Net(shared, a=_conv(3, 8), b=_conv(8, 8), head=nn.Linear(8, 5))
    model.c = _conv(8, 8)
    model.c.weight = model.b.weight
    model.written = lambda net, x: net.head((net.b(net.a(x)) + net.c(net.a(x))).mean((2, 3)))
    smaller = copy.deepcopy(model)
    graph = trace(model, (IMAGE,))
    assert len(graph.groups) == 2
    smaller, edits = remove(smaller, graph, {group.name: [0, 3, 4] for group in graph.groups})
    assert smaller.c.weight is smaller.b.weight
    assert smaller.c.out_channels == smaller.b.in_channels == 3
    assert prove(model, smaller, edits, (IMAGE,)).holds


def test_a_wrong_removal_fails_the_proof():
    model = CASES["flattened"]
    smaller = copy.deepcopy(model)
    smaller, edits = remove(smaller, trace(model, (IMAGE,)), {"a": range(4)})
    # what a wrong coupling does: the reader loses other features than the filter's own
    wrong = copy.deepcopy(model)
    shifted = [
        Edit(
            site=one.site,
            kind=one.kind,
            before=one.before,
            after=one.after,
            shape=one.shape,
            data={"dim": 1, "keep": list(range(256, 512))},
        )
        if one.site == "hidden.weight"
        else one
        for one in edits
    ]
    replay(wrong, shifted)
    assert prove(model, smaller, edits, (IMAGE,)).holds
    proof = prove(model, wrong, shifted, (IMAGE,))
    assert not proof.holds
    assert proof.max_error > 1e-2


def test_a_proof_that_could_not_fail_says_so():
    model = copy.deepcopy(CASES["flattened"])
    model.head.weight.data.zero_()
    smaller = copy.deepcopy(model)
    smaller, edits = remove(smaller, trace(model, (IMAGE,)), {"a": [0]})
    proof = prove(model, smaller, edits, (IMAGE,))
    assert proof.effect == 0
    assert "shows nothing" in proof.claim


def test_nan_proves_nothing():
    model = copy.deepcopy(CASES["flattened"])
    smaller = copy.deepcopy(model)
    smaller, edits = remove(smaller, trace(model, (IMAGE,)), {"a": [0]})
    smaller.head.bias.data[0] = float("nan")
    assert not prove(model, smaller, edits, (IMAGE,)).holds


def test_edits_of_another_network_are_refused():
    model = resnet(depth=8)
    _, edits = remove(copy.deepcopy(model), trace(model, (IMAGE,)), {"stage1.0.conv1": range(8)})
    narrow = resnet(depth=8, width=8)
    before = copy.deepcopy(narrow.state_dict())
    with pytest.raises(StructureError, match="16×16×3×3"):
        replay(narrow, edits)
    assert all(torch.equal(one, before[name]) for name, one in narrow.state_dict().items())
    other = Edit(site="conv1.weight", kind=EditKind.ENCODE, before="", after="")
    with pytest.raises(StructureError, match="does not belong"):
        replay(model, [other])


def test_gradients_flow_after_removal():
    model = copy.deepcopy(CASES["concatenated"])
    remove(model, trace(model, (IMAGE,)), {"a": [1, 2]})
    model(IMAGE).square().sum().backward()
    named = itertools.islice(model.named_parameters(), 20)
    assert all(one.grad is not None and one.grad.shape == one.shape for _, one in named)
