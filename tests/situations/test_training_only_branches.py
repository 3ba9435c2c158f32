"""Auxiliary heads, side branches and running means behind `if self.training:`, as users write."""

import copy
import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tersenet.errors import StructureError
from tersenet.graph import Graph, prove, remove, trace

IMAGES = torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(0))
KEPT = (0, 2, 3, 6)


class Net(nn.Module):
    """Two convolutions and a head; subclasses do more in training."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.b, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.side = nn.Linear(8, 4)
        self.register_buffer("center", torch.zeros(8))

    def after(self, x: Tensor, y: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return y

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.norm(self.a(x)).relu()
        return self.after(x, self.head(self.b(x).relu().mean((2, 3))))


class Side(Net):
    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.side(x.mean((2, 3))) if self.training else y


class Auxiliary(Net):
    def after(self, x: Tensor, y: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return (y, self.side(x.amax((2, 3)))) if self.training else y


class Centred(Net):
    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.center.mul_(0.9).add_(x.mean((0, 2, 3)))
            y = y + self.side(x.mean((2, 3)) - self.center)
        return y


class Evaluated(Net):
    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y if self.training else y + self.side(x.mean((2, 3)))


class WithGradients(Net):
    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.side(x.mean((2, 3))) if x.requires_grad else y


class Flagged(Net):
    extra = False

    def train(self, mode: bool = True) -> "Flagged":
        super().train(mode)
        self.extra = mode
        return self

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.side(x.mean((2, 3))) if self.extra else y


def _smaller(model: nn.Module) -> tuple[Graph, nn.Module]:
    graph = trace(model, (IMAGES,))
    name = next(group.name for group in graph.groups if "a" in group.sources)
    smaller, edits = remove(copy.deepcopy(model), graph, {name: KEPT})
    assert prove(model, smaller, edits, (IMAGES,)).holds
    return graph, smaller


def _leaves(output: Tensor | tuple[Tensor, ...]) -> Iterator[Tensor]:
    yield from (output,) if isinstance(output, Tensor) else output


@pytest.mark.parametrize("kind", [Side, Auxiliary, Centred, Evaluated, WithGradients, Flagged])
def test_what_training_reads_shrinks_with_what_it_reads(kind: type[Net]):
    """In training, too, the smaller network is the original with the removed channels zeroed."""
    torch.manual_seed(0)
    model = kind().eval()
    _, smaller = _smaller(model)
    assert smaller.side.weight.shape == (4, 4)
    assert model.training is False
    gone = [unit for unit in range(8) if unit not in KEPT]
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(model.norm, name)[gone] = 0
    for mode in (True, False):
        wanted, found = copy.deepcopy(model).train(mode), smaller.train(mode)
        for one in (wanted, found):
            one.norm.eval()  # statistics of the batch are what both would take
        pairs = zip(_leaves(found(IMAGES)), _leaves(wanted(IMAGES)), strict=True)
        for left, right in pairs:
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_what_training_compares_along_stays():
    class Gated(Net):
        def after(self, x: Tensor, y: Tensor) -> Tensor:
            return y + self.side(x.mean((2, 3)).softmax(1)) if self.training else y

    graph = trace(Gated().eval(), (IMAGES,))
    assert [group.name for group in graph.groups if group.sources] == ["b"]
    reason = next(one.reason for one in graph.frozen if one.name == "a")
    assert reason is not None
    assert "softmax" in reason
    assert reason.endswith("in training")


class Chance(Net):
    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.training and random.random() < 0.01:
            y = y + self.side(x.mean((2, 3)))
        return y


class Late(Net):
    epoch = 0

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.side(x.mean((2, 3))) if self.training and self.epoch > 5 else y


class Targets(Net):
    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.side(x.mean((2, 3))) + self.targets if self.training else y


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Chance, "by chance"), (Late, "beside 'side"), (Targets, "cannot be read.*'side.weight'")],
)
def test_a_branch_that_no_run_shows_freezes_by_name(kind: type[Net], reason: str):
    graph = trace(kind().eval(), (IMAGES,))
    assert not graph.groups
    with pytest.raises(StructureError, match=reason):
        remove(kind().eval(), graph, {"a": KEPT})


def test_dropout_norms_and_dropped_paths_cost_nothing():
    class Dropped(Net):
        def after(self, x: Tensor, y: Tensor) -> Tensor:
            y = nn.functional.dropout(y, 0.5, self.training)
            if self.training:
                y = y * y.new_empty(len(y), 1).bernoulli_(0.8) / 0.8
            return y

    plain, dropped = (trace(kind().train(), (IMAGES,)) for kind in (Net, Dropped))
    assert [one.members for one in dropped.groups] == [one.members for one in plain.groups]
    assert {"a", "b"} <= set(plain.by_name)
    assert not plain.walk.trains_more
    assert not dropped.walk.trains_more


def test_a_size_that_only_training_holds_is_told_and_not_lost():
    class Written(Net):
        def after(self, x: Tensor, y: Tensor) -> Tensor:
            if self.training:
                y = y + self.side(x.reshape(len(x), 8, 64).mean(2))
            return y

    model = Written().eval()
    with pytest.raises(StructureError, match=r"in training it does not run.*training alone"):
        remove(copy.deepcopy(model), trace(model, (IMAGES,)), {"a": KEPT})
