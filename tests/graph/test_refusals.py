"""What cannot be read stays as it is, and says by operator and source line why."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tersenet.errors import StructureError
from tersenet.graph import Graph, prove, remove, trace

IMAGE = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.library.custom_op("tersenet_tests::reversed", mutates_args=())
def reverse_channels(x: Tensor) -> Tensor:
    return x.flip(1)


@reverse_channels.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Between(nn.Module):
    """Two convolutions with something between them, and two without."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.third = nn.Conv2d(8, 4, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.first(x))
        return self.third(self.second(x).relu())


def backwards(x: Tensor) -> Tensor:
    """A plain function, which can be copied with its model where an operator cannot."""
    return reverse_channels(x)


@pytest.mark.parametrize(
    ("between", "operator"),
    [
        (backwards, "tersenet_tests.reversed.default"),
        (lambda x: torch.fft.fft(x, dim=1).real, "aten.fft_fft.default"),
        (lambda x: x.sort(1).values, "aten.sort"),
        (lambda x: x.cumsum(1), "aten.cumsum.default"),
        (lambda x: x + torch.arange(8).view(1, 8, 1, 1), "aten.arange.default"),
        (lambda x: x.softmax(1), "aten.softmax.int"),
        (lambda x: x * x.sum(1, keepdim=True), "aten.sum.dim_IntList"),
        (lambda x: torch.cat([x[:, 1::2], x[:, ::2]], 1), "aten.slice.Tensor"),
    ],
)
def test_an_operator_without_a_rule_keeps_what_it_touches(between, operator: str):
    model = Between(between)
    graph = trace(model, (IMAGE,))
    assert set(graph.by_name) == {"second"}
    reason = next(one.reason for one in graph.frozen if one.name == "first")
    assert reason is not None
    assert operator in reason
    assert "test_refusals.py:" in reason
    with pytest.raises(StructureError, match=operator.replace(".", r"\.")):
        graph.removed({"first": [0]})
    _remove_half(model, graph)


def test_a_rule_for_an_own_operator_frees_it():
    from tersenet.graph import rule
    from tersenet.graph.visit import _RULES

    @rule("tersenet_tests.reversed")
    def _(at):
        x = at.value("x")
        return (x[0], x[1][::-1], *x[2:])

    try:
        model = Between(backwards)
        graph = trace(model, (IMAGE,))
        assert set(graph.by_name) == {"first", "second"}
        _remove_half(model, graph)
    finally:
        del _RULES["tersenet_tests.reversed"]


def test_the_contract_stays():
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5)), (IMAGE,))
    assert [(one.name, one.size) for one in graph.frozen] == [("2", 5)]
    assert "output" in (graph.frozen[0].reason or "")


def test_control_flow_that_depends_on_data_names_the_line():
    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:  # the decision
                return self.left(x)
            return self.right(x)

    with pytest.raises(StructureError, match=r"test_refusals\.py:\d+: if x\.sum\(\) > 0"):
        trace(Choice(), (IMAGE,))


def test_an_example_that_does_not_fit_is_told_apart():
    with pytest.raises(StructureError, match="does not run on its example"):
        trace(nn.Conv2d(4, 8, 3), (IMAGE,))


def test_groups_never_lose_all_units_and_unknown_ones_are_named():
    model = Between(torch.relu)
    graph, before = trace(model, (IMAGE,)), copy.deepcopy(model.state_dict())
    for keep, text in [
        ({"first": []}, "all 8 units of 'first'"),
        ({"fist": [0]}, "no group 'fist'.*first"),
        ({"first": [8]}, "distinct and below 8"),
        ({"second": [0], "first": [1, 1]}, "distinct and below 8"),
        ({"third": [0]}, "'third': it is the network's output"),
    ]:
        with pytest.raises(StructureError, match=text):
            remove(model, graph, keep)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_tracing_leaves_the_network_as_it_was():
    model = Between(nn.BatchNorm2d(8))
    model.train()
    model.between.eval()
    before = copy.deepcopy(model.state_dict())
    trace(model, (IMAGE,))
    assert (model.training, model.first.training, model.between.training) == (True, True, False)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def _remove_half(model: nn.Module, graph: Graph) -> None:
    smaller = copy.deepcopy(model)
    keep = {group.name: range(0, group.size, 2) for group in graph.groups}
    smaller, edits = remove(smaller, graph, keep)
    proof = prove(model, smaller, edits, (IMAGE,))
    assert proof.holds
    assert proof.effect > 1e-3
