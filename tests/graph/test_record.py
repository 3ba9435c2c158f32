"""Networks that cannot be exported: one path of them is read, and proved on other inputs too."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tersenet.errors import StructureError
from tersenet.graph import provable, prove, remove, trace


class Packed(nn.Module):
    """A recurrent layer over sequences of unequal length."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(6, 8), nn.Linear(12, 3)
        self.recurrent = nn.LSTM(8, 12, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = self.before(x).relu()
        steps = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.after(pad_packed_sequence(self.recurrent(steps)[0], batch_first=True)[0])


class Scaled(nn.Module):
    """A decision that depends on the data, with the same layers either way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        bright = x.sum() > 0
        x = self.first(x)
        x = x.tanh() if bright else x.relu()
        return self.last(x)


class Either(nn.Module):
    """A decision between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.left(x) if x.sum() > 0 else self.right(x)  # the decision


def test_packed_sequences_lose_hidden_units():
    torch.manual_seed(1)
    model, example = Packed(), (torch.randn(3, 5, 6), torch.tensor([5, 3, 4]))
    graph = trace(model, example)
    assert {group.name: group.size for group in graph.groups if group.filters} == {
        "before": 8,
        "recurrent.weight_ih_l0 + 1 more": 12,
    }
    keep = {group.name: range(group.size // 2) for group in graph.groups if group.filters}
    smaller, edits = remove(copy.deepcopy(model), graph, keep)
    assert isinstance(smaller, Packed)
    assert (smaller.recurrent.input_size, smaller.recurrent.hidden_size) == (4, 6)
    proof = prove(model, smaller, edits, (torch.randn(4, 7, 6), torch.tensor([2, 7, 1, 4])))
    assert proof.holds
    assert proof.effect > 1e-3


def test_a_decision_with_the_same_layers_either_way():
    torch.manual_seed(1)
    model, example = Scaled(), (torch.randn(2, 3, 8, 8),)
    graph = trace(model, example)
    assert "x.tanh() if bright" in graph.walk.path
    smaller, edits = remove(copy.deepcopy(model), graph, {"first": range(5)})
    assert isinstance(smaller, Scaled)
    for shift in (-3.0, 3.0):
        assert prove(model, smaller, edits, (example[0] + shift,)).holds


def test_layers_that_the_example_does_not_use_are_named():
    with pytest.raises(StructureError, match=r"test_record\.py:\d+: .*'(left|right)\.weight'"):
        trace(Either(), (torch.randn(2, 6),))


def test_a_path_is_no_program_where_its_own_class_no_longer_fits():
    class Narrowed(nn.Module):
        """A size written down, and a decision that depends on the data."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            factor = 1 if float(x.sum()) > 0 else 2
            return self.last(self.first(x).view(-1, 8)) * factor

    model, example = Narrowed(), (torch.randn(2, 6),)
    graph = trace(model, example)
    with pytest.raises(StructureError, match="one path of it was read"):
        remove(copy.deepcopy(model), graph, {"first": range(4)})
    keep, skips = provable(model, graph, {"first": tuple(range(4))})
    assert len(keep["first"]) == 8
    assert "cannot be proved" in skips[0].reason
