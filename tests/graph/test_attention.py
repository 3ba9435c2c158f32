"""Transformers: heads and hidden units go, what is normalised or written down stays."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.graph import prove, remove, trace

TOKENS = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(4))


class Block(nn.Module):
    """Attention and a hidden layer, each read through a norm and added to the trunk."""

    def __init__(self, attention: nn.Module, feed: nn.Module) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention, self.feed = attention, feed

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return (x + self.feed(self.between(x)))[:, 0]


class Heads(nn.Module):
    """Four heads of four dimensions; `heads` is what forward() calls their number."""

    def __init__(self, heads: int, *, fused: bool = False, by_hand: bool = False) -> None:
        super().__init__()
        self.heads, self.fused, self.by_hand = heads, fused, by_hand
        if fused:
            self.qkv = nn.Linear(16, 48)
        else:
            self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        read = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (one.unflatten(-1, (self.heads, 4)).transpose(1, 2) for one in read)
        if self.by_hand:
            x = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        else:
            x = functional.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(16, 24), nn.Linear(12, 16)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.wide(x).chunk(2, -1)
        return self.narrow(functional.silu(gate) * value)


def _feed() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16))


@pytest.mark.parametrize(
    ("block", "sizes"),
    [
        (Block(Heads(-1), _feed()), [4, 20]),
        (Block(Heads(-1, fused=True), _feed()), [4, 20]),
        (Block(Heads(-1, by_hand=True), Gated()), [4, 12]),
        (Block(Heads(4), Gated()), [4, 12]),
        (Block(Heads(4, fused=True, by_hand=True), _feed()), [4, 20]),
    ],
)
def test_heads_and_hidden_units_go(block: nn.Module, sizes: list[int]):
    graph = trace(block, (TOKENS,))
    assert [group.size for group in graph.groups] == sizes
    smaller = copy.deepcopy(block)
    keep = {group.name: range(1, group.size, 2) for group in graph.groups}
    smaller, edits = remove(smaller, graph, keep)
    proof = prove(block, smaller, edits, (TOKENS,))
    assert proof.holds
    assert proof.effect > 1e-3
    reasons = " ".join(one.reason or "" for one in graph.frozen)
    assert "it meets the network's input 'x'" in reasons  # the trunk


def test_pytorch_layer_loses_heads_as_its_exported_program():
    layer = nn.TransformerEncoderLayer(16, 4, 20, batch_first=True, norm_first=True)
    graph = trace(layer, (TOKENS,))
    assert {group.name: group.size for group in graph.groups} == {
        "self_attn.in_proj_weight": 4,
        "linear1": 20,
    }
    own = copy.deepcopy(layer)
    smaller, edits = remove(own, graph, {"linear1": range(9)})
    assert smaller is own
    assert prove(layer, smaller, edits, (TOKENS,)).effect > 1e-4
    smaller, edits = remove(own := copy.deepcopy(layer), graph, {"self_attn.in_proj_weight": [1]})
    assert smaller is not own
    proof = prove(layer, smaller, edits, (TOKENS,))
    assert proof.holds
    assert proof.effect > 1e-4
    assert smaller.get_parameter("self_attn.in_proj_weight").shape == (12, 16)


def test_columns_of_a_table_go_with_their_readers():
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.more = nn.Embedding(9, 8), nn.Linear(16, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, words: Tensor, x: Tensor) -> Tensor:
            return self.head((self.table(words) + self.more(x)).mean(1))

    words = torch.arange(15).reshape(3, 5) % 9
    model = Words()
    graph = trace(model, (words, TOKENS))
    assert {group.name: group.size for group in graph.groups} == {"more": 8}
    smaller = copy.deepcopy(model)
    smaller, edits = remove(smaller, graph, {"more": [0, 5, 6]})
    assert smaller.table.embedding_dim == 3
    assert prove(model, smaller, edits, (words, TOKENS)).holds
