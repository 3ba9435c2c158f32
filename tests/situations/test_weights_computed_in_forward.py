"""Weight norm and its kin: layers whose weight is made, in forward(), of all that it reads."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tersenet.errors import StructureError
from tersenet.graph import prove, remove, trace

TOKENS = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
KEPT = (0, 2, 3, 6)


def deprecated(layer: nn.Module, dim: int | None = 0) -> nn.Module:
    with pytest.warns(FutureWarning):
        made = nn.utils.weight_norm(layer, dim=dim)
    with torch.no_grad():
        made(torch.zeros(1, layer.in_features))  # or its weight cannot be copied by PyTorch
    return made


@pytest.mark.parametrize("norm", [deprecated, parametrizations.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("kept", [KEPT, (5,)])
def test_a_normed_layer_computes_on_as_if_units_were_zero(
    norm: Callable, dim: int | None, kept: tuple[int, ...]
):
    """Half of the units gone: outputs were off by 0.2 of 0.9, and the proof held."""
    torch.manual_seed(0)
    first, last = norm(nn.Linear(6, 8), dim=dim), norm(nn.Linear(8, 3), dim=dim)
    model = nn.Sequential(first, nn.ReLU(), last).eval()
    graph = trace(model, (TOKENS,))
    (group,) = (one for one in graph.groups if one.size == 8)
    assert not group.changes
    smaller, edits = remove(copy.deepcopy(model), graph, {group.name: kept})
    proof = prove(model, smaller, edits, (TOKENS,))
    assert proof.holds
    assert "meaning" not in proof.claim
    with torch.no_grad():
        hidden = model[1](model[0](TOKENS))
        hidden[:, [unit for unit in range(8) if unit not in kept]] = 0
        torch.testing.assert_close(smaller(TOKENS), model[2](hidden))


class Made(nn.Module):
    """Two layers whose weights go through a function; `kept` zeroes the other units between."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.make = make
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        x = functional.linear(x, self.make(self.first.weight), self.first.bias).relu()
        x = x if kept is None else x * kept
        return functional.linear(x, self.make(self.last.weight), self.last.bias)


MAKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "softplus": functional.softplus,
    "length": lambda w: w / w.norm(),
    "length of a row": lambda w: functional.normalize(w, dim=1),
    "length of a column": lambda w: functional.normalize(w, dim=0),
    "standardised": lambda w: (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True),
    "layer norm": lambda w: functional.layer_norm(w, w.shape[1:]),
    "scaled signs": lambda w: w.sign() * w.abs().mean(1, keepdim=True),
    "sum": lambda w: w / w.abs().sum(1, keepdim=True),
    "largest": lambda w: w / w.abs().max(),
    "largest of a row": lambda w: w / w.abs().amax(1, keepdim=True),
    "softmax": lambda w: w.softmax(1),
    "softmax of a column": lambda w: w.softmax(0),
    "running": lambda w: w.cumsum(1),
    "sorted": lambda w: w.sort(1).values,
    "few": lambda w: w * (w.abs() >= w.abs().topk(3, 1).values[:, -1:]),
    "product": lambda w: w * w.prod(1, keepdim=True),
    "gram": lambda w: w @ w.t() @ w,
    "einsum": lambda w: w / torch.einsum("oi,oi->o", w, w)[:, None],
    "spectral": lambda w: w / torch.linalg.matrix_norm(w, 2),
    "median": lambda w: w - w.median(),
}


@pytest.mark.parametrize("name", MAKERS)
def test_units_go_exactly_or_declared_or_not_at_all(name: str):
    torch.manual_seed(0)
    model = Made(MAKERS[name]).eval()
    graph = trace(model, (TOKENS,))
    group = next((one for one in graph.groups if "first" in one.sources and one.size == 8), None)
    if group is None:
        assert any(one.reason for one in graph.frozen if "first" in one.sources)
        return
    try:
        smaller, edits = remove(copy.deepcopy(model), graph, {group.name: KEPT})
    except StructureError as error:
        assert "cannot be proved" in str(error)  # noqa: PT017 (one of three right ends)
        return
    proof = prove(model, smaller, edits, (TOKENS,))
    assert proof.holds
    kept = torch.zeros(8)
    kept[list(KEPT)] = 1
    with torch.no_grad():
        wanted, found = model(TOKENS, kept), smaller(TOKENS)
    if torch.allclose(wanted, found, rtol=1e-4, atol=1e-5):
        return
    assert group.changes
    assert "where its meaning changes" in proof.claim


def test_some_of_each_end():
    ends = {}
    for name in ("exp", "standardised", "softmax", "gram"):
        graph = trace(Made(MAKERS[name]).eval(), (TOKENS,))
        found = [one for one in graph.groups if "first" in one.sources]
        ends[name] = found[0].changes if found else None
    assert ends["exp"] == ()
    assert ends["standardised"]
    assert ends["softmax"] is None


def test_the_rank_of_two_factors_still_goes():
    class Factored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(5, 6))

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.left @ self.right)

    model = Factored()
    graph = trace(model, (TOKENS,))
    (group,) = graph.groups
    smaller, edits = remove(copy.deepcopy(model), graph, {group.name: (0, 2)})
    assert prove(model, smaller, edits, (TOKENS,)).holds
    wanted = functional.linear(TOKENS, model.left[:, [0, 2]] @ model.right[[0, 2]])
    torch.testing.assert_close(smaller(TOKENS), wanted)
