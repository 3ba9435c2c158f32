"""Masks hold through every optimiser, and through files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.files import load_weights, save_tensors
from tersenet.core.types import Edit, EditKind, Subject, Workbench
from tersenet.distill import Response
from tersenet.graph import remove, trace
from tersenet.models import resnet
from tersenet.prune import Magnitude
from tersenet.train import Masks, TrainingOptions, fit

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
}


@dataclasses.dataclass(frozen=True)
class Noise:
    steps_per_epoch: int = 10

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 1, 10, 10, generator=generator)
        return inputs, torch.randint(0, 5, (8,), generator=generator)


def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet(depth=8, in_channels=1, classes=5, width=4).eval()


def masked(model: nn.Module, **options: object) -> Subject:
    """The subject that the step after a mask receives."""
    whole = Subject(model=model, example=(Noise().batch(0)[0][:2],), training=Noise())
    method = Magnitude(**(options or {"sparsity": 0.8}))
    model, edits = method.apply(model, method.plan(whole, Workbench()), whole, Workbench())
    return dataclasses.replace(whole, model=model, original=network(), edits=edits)


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach() == 0 for name, one in model.named_parameters() if one.ndim > 1}


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs), targets)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("pattern", ["element", "filter", "2:4"])
def test_masked_weights_are_zero_after_every_step(name: str, pattern: str) -> None:
    options = {} if pattern == "2:4" else {"sparsity": 0.7}
    subject = masked(network(), pattern=pattern, **options)
    model, before = subject.model.train(), zeros(subject.model)
    dense = {name: value.detach().clone() for name, value in model.named_parameters()}
    masks = Masks.of(model, subject.edits)
    optimiser = OPTIMISERS[name](model.parameters())
    for step in range(20):
        optimiser.zero_grad()
        loss(model, *Noise().batch(step)).backward()
        optimiser.step()
        masks.hold_(model)
        for site, own in zeros(model).items():
            assert not (before[site] & ~own).any(), (step, site)
    for site, one in model.named_parameters():  # and the others are free to move
        assert not torch.equal(one, dense[site]), site


def test_without_masks_the_zeros_would_fill_up() -> None:
    subject = masked(network())
    before = zeros(subject.model)
    fit(subject.model, Noise(), loss, TrainingOptions(epochs=1, learning_rate=0.01))
    assert any((before[site] & ~own).any() for site, own in zeros(subject.model).items())


def test_fine_tuning_keeps_the_masks_of_the_steps_before(tmp_path: Path) -> None:
    subject = masked(network())
    before = zeros(subject.model)
    method = Response(epochs=2, learning_rate=0.05)
    model, _ = method.apply(
        subject.model, method.plan(subject, Workbench()), subject, Workbench(folder=tmp_path)
    )
    after = zeros(model)
    assert all(torch.equal(before[site], after[site]) for site in before)
    assert not [key for key in model.state_dict() if "mask" in key or "orig" in key]
    save_tensors(tmp_path / "weights.safetensors", model.state_dict())
    again = network()
    load_weights(again, tmp_path / "weights.safetensors")
    assert all(torch.equal(before[site], own) for site, own in zeros(again).items())


def test_other_zeros_are_no_masks() -> None:
    model = network()
    model.get_parameter("linear.weight").data.zero_()
    tuned = Edit(site="linear.weight", kind=EditKind.TUNE, before="", after="")
    assert not Masks.of(model, [tuned]).zeros
    fit(model, Noise(), loss, TrainingOptions(epochs=1, learning_rate=0.1), edits=[tuned])
    assert model.get_parameter("linear.weight").count_nonzero() == 5 * 16


def test_masks_follow_where_channels_go_afterwards() -> None:
    subject = masked(network())
    model, group = subject.model, trace(subject.model, subject.example).groups[0]
    remove(model, trace(model, subject.example), {group.name: list(range(1, group.size))})
    before = zeros(model)
    fit(model, Noise(), loss, TrainingOptions(epochs=1, learning_rate=0.1), edits=subject.edits)
    assert all(torch.equal(before[site], own) for site, own in zeros(model).items())
