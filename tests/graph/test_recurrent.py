"""Recurrent layers: hidden units go from all gates, layers and directions, exactly."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tersenet.graph import layers, prove, remove, replay, trace

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")


class Net(nn.Module):
    """A linear layer, a recurrent one and a linear one."""

    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.before = nn.Linear(3, 4)
        self.recurrent = kind(4, 6, **options)
        width = options.get("proj_size") or 6
        self.after = nn.Linear(width * (2 if self.recurrent.bidirectional else 1), 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.recurrent.batch_first else x.transpose(0, 1)
        x = self.recurrent(self.before(x).relu())[0]
        return self.after(x.mean(1 if self.recurrent.batch_first else 0))


CASES = [
    (nn.LSTM, {}),
    (nn.LSTM, {"batch_first": True, "bidirectional": True, "num_layers": 2}),
    (nn.LSTM, {"proj_size": 5, "num_layers": 2}),
    (nn.LSTM, {"proj_size": 5, "bidirectional": True, "bias": False}),
    (nn.GRU, {"bidirectional": True}),
    (nn.GRU, {"batch_first": True, "num_layers": 3, "bias": False}),
    (nn.RNN, {"num_layers": 2}),
    (nn.RNN, {"nonlinearity": "relu", "bidirectional": True}),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_units_go_from_every_gate(kind: type[nn.RNNBase], options: dict[str, object]):
    torch.manual_seed(3)
    model, example = Net(kind, **options), (torch.randn(2, 5, 3),)
    graph = trace(model, example)
    sizes = [4, 6, 5] if "proj_size" in options else [4, 6]
    assert sorted(group.size for group in graph.groups) == sorted(sizes)
    keep = {group.name: range(1, group.size - 1) for group in graph.groups}
    smaller, edits = remove(copy.deepcopy(model), graph, keep)
    assert isinstance(smaller, Net)
    assert (smaller.recurrent.input_size, smaller.recurrent.hidden_size) == (2, 4)
    proof = prove(model, smaller, edits, (torch.randn(3, 7, 3),))
    assert proof.holds
    assert proof.effect > 1e-4
    again = replay(Net(kind, **options), edits)
    again.load_state_dict(smaller.state_dict())
    assert torch.equal(again(*example), smaller(*example))


def test_a_smaller_layer_trains_on():
    model, example = Net(nn.GRU), (torch.randn(2, 5, 3),)
    graph = trace(model, example)
    smaller, _ = remove(model, graph, {group.name: range(2) for group in graph.groups})
    smaller(*example).sum().backward()
    assert smaller.recurrent.weight_hh_l0.grad.shape == (3 * 2, 2)


def test_macs_are_those_of_the_gates():
    model, example = Net(nn.LSTM, bidirectional=True), (torch.randn(2, 5, 3),)
    found = {layer.site: layer.macs for layer in layers(model, example)}
    # 5 steps of 4 gates of 6 units, reading 4 inputs and 6 outputs of the step before
    assert found["recurrent.weight_ih_l0"] == 5 * 4 * 6 * 4
    assert found["recurrent.weight_hh_l0_reverse"] == 5 * 4 * 6 * 6
    assert len(found) == 6


def test_a_state_that_comes_in_stays():
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.after = nn.GRU(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor, state: Tensor) -> Tensor:
            return self.after(self.recurrent(x.transpose(0, 1), state.transpose(0, 1))[0][-1])

    graph = trace(Given(), (torch.randn(2, 5, 3), torch.randn(2, 1, 6)))
    assert graph.groups == ()
    assert any("input 'state'" in (group.reason or "") for group in graph.frozen)
