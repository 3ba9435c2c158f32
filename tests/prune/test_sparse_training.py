"""Slimming and sparse structure selection: their steps in closed form, what they then remove."""

import dataclasses
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from tersenet.core.types import Batch, EditKind, Subject, Workbench
from tersenet.errors import DataError, StructureError
from tersenet.prune import SSS, LatencyAware, LayerPrune, Slimming
from tersenet.prune.trained.sparse_training import soft_threshold
from tersenet.prune.trained.sss import BranchScale


@dataclasses.dataclass(frozen=True)
class Noise:
    """Batches with random labels: nothing to learn, so the penalty wins where it can."""

    steps_per_epoch: int = 6

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 2, 8, 8, generator=generator)
        return inputs, torch.randint(0, 3, (8,), generator=generator)


class Residual(nn.Module):
    """Two residual blocks behind a stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.first = nn.Sequential(
            nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
            nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6),
        )  # fmt: skip
        self.second = nn.Sequential(
            nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6),
        )  # fmt: skip
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.first(x)).relu()
        x = (x + self.second(x)).relu()
        return self.head(x.mean((2, 3)))


def subject() -> Subject:
    torch.manual_seed(0)
    return Subject(model=Residual().eval(), example=(Noise().batch(0)[0][:2],), training=Noise())


def test_the_proximal_map_is_the_minimiser():
    x = torch.linspace(-2, 2, 9)
    grid = torch.linspace(-3, 3, 6001)
    for value, found in zip(x, soft_threshold(x, 0.6), strict=True):
        best = grid[((grid - value).square() / 2 + 0.6 * grid.abs()).argmin()]
        assert found.item() == pytest.approx(best.item(), abs=1e-3)


@pytest.mark.parametrize(("slope", "wanted"), [(1.0, 0.35), (0.3, 0.0), (-1.0, -0.35)])
def test_accelerated_steps_find_the_sparse_minimum(slope: float, wanted: float):
    # ½ (2 λ)² − slope · 2 λ … + 0.3 · |λ|·2 is least at S(slope · 2, 0.6) / 4.
    scale = BranchScale()
    for _ in range(400):
        scale.zero_grad()
        (2 * scale.ahead.square() - 2 * slope * scale.ahead).sum().backward()
        scale.ahead.data += 5  # what an optimiser did meanwhile has no say
        scale.step_(rate=0.02, strength=0.6)
    assert scale.scale.item() == pytest.approx(wanted, abs=1e-4)
    assert wanted or scale.scale.item() == 0


def test_slimming_cuts_at_one_threshold_for_the_network():
    whole = subject()
    method = Slimming(epochs=2, strength=0.05, keep=0.6, multiple_of=None)
    trained = method.reference(whole, Workbench())
    plan = method.plan(whole, Workbench())
    gamma = {name: one.detach().abs() for name, one in trained.named_parameters()}
    stage = (gamma["norm.weight"] + gamma["first.4.weight"] + gamma["second.4.weight"]) / 3
    scores = {"stem + 2 more": stage, "first.0": gamma["first.1.weight"],
              "second.0": gamma["second.1.weight"]}  # fmt: skip
    every = torch.cat(list(scores.values()))
    threshold = every.sort(descending=True).values[int(0.6 * len(every)) - 1]
    for name, own in scores.items():
        kept = (own >= threshold).nonzero().flatten().tolist() or [int(own.argmax())]
        assert set(plan.keep[name]) >= set(kept)
    assert sum(map(len, plan.keep.values())) == int(0.6 * len(every))
    assert not torch.equal(trained.norm.weight, whole.model.norm.weight)


def test_the_penalty_reaches_zero_and_more_of_it_more_often():
    zeros = []
    for strength in (0.0, 0.05, 0.5):
        method = Slimming(epochs=4, strength=strength, learning_rate=0.05, multiple_of=None)
        trained = method.reference(subject(), Workbench())
        norms = [m for m in trained.modules() if isinstance(m, nn.BatchNorm2d)]
        zeros.append(sum(int((norm.weight == 0).sum()) for norm in norms))
    assert zeros[0] == 0
    assert zeros[0] <= zeros[1] < zeros[2]


def test_what_was_trained_is_kept_in_the_folder(tmp_path: Path):
    whole = subject()
    method = Slimming(epochs=1, strength=0.05, multiple_of=None)
    first = method.reference(whole, Workbench(folder=tmp_path))
    told: list[int] = []
    bench = Workbench(folder=tmp_path, tick=lambda text, done, total: told.append(done))
    again, anew = method.reference(whole, bench), method.reference(whole, Workbench())
    assert not told  # read, not trained
    for name, one in first.state_dict().items():
        assert torch.equal(one, again.state_dict()[name])
        assert torch.equal(one, anew.state_dict()[name])


def test_branches_vanish_as_the_strength_grows():
    removed = []
    for strength in (0.0, 20.0):
        whole = subject()
        method = SSS(epochs=2, strength=strength, learning_rate=0.05)
        plan = method.plan(whole, Workbench())
        model, edits = method.apply(Residual(), plan, whole, Workbench())
        removed.append(len(plan.removed))
        assert sum(edit.kind is EditKind.DROP for edit in edits) >= len(plan.removed)
        assert plan.params[1] == sum(one.numel() for one in model.parameters())
        # The scales are in the weights: the network is the trained one without the branches.
        x, trained = whole.example[0], method.reference(whole, Workbench())
        for name in plan.removed:
            for value in trained.get_submodule(f"{name.partition('.')[0]}.4").parameters():
                value.data.zero_()
        torch.testing.assert_close(model.eval()(x), trained(x), rtol=1e-4, atol=1e-5)
    assert removed == [0, 2]


def test_scales_multiply_while_training_and_are_weights_after():
    whole = subject()
    method = SSS(epochs=2, strength=0.5, learning_rate=0.05)
    plan = method.plan(whole, Workbench())
    assert not plan.removed
    assert all(0 < scale < 1 for scale in plan.scores.values())
    free = SSS(epochs=2, strength=0.0, learning_rate=0.05).plan(whole, Workbench())
    assert all(plan.scores[name] < free.scores[name] for name in plan.scores)


@pytest.mark.parametrize("method", [Slimming(), SSS()], ids=lambda one: one.name)
def test_without_training_data_it_says_so(method):
    whole = dataclasses.replace(subject(), training=None)
    with pytest.raises(DataError, match=f"prune {method.name} has no training data"):
        method.plan(whole, Workbench())


def test_without_scales_or_branches_they_say_so():
    plain = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    whole = dataclasses.replace(subject(), model=plain.eval())
    with pytest.raises(StructureError, match="no batch norm whose scale"):
        Slimming().plan(whole, Workbench())
    with pytest.raises(StructureError, match="no residual branch"):
        SSS().plan(whole, Workbench())


@pytest.mark.parametrize("method", [LayerPrune, LatencyAware])
def test_what_trains_is_no_criterion_of_another_step(method: type) -> None:
    with pytest.raises(ValidationError, match="there is no criterion 'slimming'"):
        TypeAdapter(method).validate_python({"criterion": {"slimming": {}}})
