"""Attention heads as units: a head goes whole, from queries, keys, values and the projection."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Subject, Workbench
from tersenet.graph import prove
from tersenet.prune import L1, Channels

HEADS, SIZE, WIDTH = 4, 4, 16


class Attention(nn.Module):
    """As many heads as the weights hold, from one fused projection or from three."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        if fused:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        else:
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.fused, self.out = fused, nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        read = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (one.unflatten(-1, (-1, SIZE)).transpose(1, 2) for one in read)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fused", [True, False])
def test_l1_removes_whole_heads(fused: bool) -> None:
    torch.manual_seed(1)
    model = Attention(fused=fused).eval()
    rows = torch.arange(3 * WIDTH).view(3, HEADS, SIZE)  # q, k, v by head
    names = ["qkv"] if fused else ["q", "k", "v"]
    weights = [model.get_parameter(f"{name}.weight") for name in names]
    with torch.no_grad():
        for index in (0, 2):  # small heads
            for part in range(3):
                own = rows[part, index] if fused else rows[0, index]
                weights[0 if fused else part][own] *= 0.1
    before = copy.deepcopy(model)
    subject = Subject(model=model, example=(torch.randn(2, 5, WIDTH),))
    method = Channels(criterion=L1(), keep=0.5, scope="layer", multiple_of=None)
    plan = method.plan(subject, Workbench())
    assert list(plan.keep.values()) == [(1, 3)]
    smaller, edits = method.apply(model, plan, subject, Workbench())
    kept = rows[:, [1, 3]].flatten(1)  # (q or k or v, row)
    dense = [before.get_parameter(f"{name}.weight") for name in names]
    for name, weight, part in zip(
        names, dense, [kept.flatten()] if fused else kept[0].expand(3, -1), strict=True
    ):
        assert torch.equal(smaller.get_parameter(f"{name}.weight"), weight[part])
    assert torch.equal(
        smaller.get_parameter("out.weight"), before.get_parameter("out.weight")[:, kept[0]]
    )
    proof = prove(before, smaller, edits, subject.example)
    assert proof.holds
    assert proof.effect > 1e-3


def test_pytorch_attention_loses_whole_heads() -> None:
    torch.manual_seed(1)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
            self.feed = nn.Sequential(nn.Linear(WIDTH, 24), nn.ReLU(), nn.Linear(24, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attention(x, x, x, need_weights=False)[0]
            return x + self.feed(x)

    model = Mixed().eval()
    before = copy.deepcopy(model)
    subject = Subject(model=model, example=(torch.randn(2, 5, WIDTH),))
    method = Channels(criterion=L1(), keep=0.5, scope="layer", multiple_of=None)
    plan = method.plan(subject, Workbench())
    (heads,) = [name for name in plan.keep if name.startswith("attention")]
    assert (plan.sizes[heads], len(plan.keep[heads]), len(plan.keep["feed.0"])) == (HEADS, 2, 12)
    smaller, edits = method.apply(model, plan, subject, Workbench())
    proof = prove(before, smaller, edits, subject.example)
    assert proof.holds
    assert proof.effect > 1e-3
    rows = torch.arange(3 * WIDTH).view(3, HEADS, SIZE)[:, list(plan.keep[heads])].flatten(1)
    tensors, dense = dict(smaller.state_dict()), before.attention
    found = [one for name, one in tensors.items() if "attention" in name and one.ndim == 2]
    assert any(torch.equal(one, dense.in_proj_weight[rows.flatten()]) for one in found)
    assert any(torch.equal(one, dense.out_proj.weight[:, rows[0]]) for one in found)
