"""The loss of response distillation against its closed form, and the method's promises."""

import dataclasses

import pytest
import torch
from torch.nn import functional

from tersenet.core.types import Subject, Workbench
from tersenet.distill import Response, response_loss
from tersenet.errors import DataError, StructureError
from tersenet.models import resnet


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("squared", [False, True])
def test_gradient_in_closed_form(temperature: float, squared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(6, 10, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = 3 * torch.randn(6, 10, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 10, (6,), generator=generator)
    weight, hard_weight = 0.7, 0.3
    response_loss(
        student,
        teacher,
        targets,
        temperature=temperature,
        weight=weight,
        hard_weight=hard_weight,
        squared=squared,
    ).backward()
    hard = student.detach().softmax(1) - functional.one_hot(targets, 10)
    soft = (student.detach() / temperature).softmax(1) - (teacher / temperature).softmax(1)
    scale = temperature**2 if squared else 1.0
    expected = (hard_weight * hard + weight * scale / temperature * soft) / len(targets)
    torch.testing.assert_close(student.grad, expected, rtol=1e-12, atol=1e-14)


def test_zero_weight_is_cross_entropy() -> None:
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    loss = response_loss(logits, torch.randn(5, 3), targets, temperature=4, weight=0)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, targets))


def test_soft_gradient_vanishes_at_the_teacher() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 0, 1])
    response_loss(
        logits, logits.detach(), targets, temperature=3, weight=1, hard_weight=0
    ).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-7


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Two classes told apart by the sign of the mean pixel."""

    steps_per_epoch: int = 8

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        targets = torch.randint(0, 2, (16,), generator=generator)
        noise = torch.randn(16, 1, 8, 8, generator=generator)
        return noise + (2 * targets - 1).view(-1, 1, 1, 1), targets


def subject() -> Subject:
    torch.manual_seed(0)
    model = resnet(depth=8, in_channels=1, classes=2, width=4).eval()
    return Subject(
        model=model,
        example=(torch.zeros(2, 1, 8, 8),),
        original=model,
        training=Pixels(),
    )


def test_learns_and_leaves_the_original_alone() -> None:
    whole = subject()
    method = Response(epochs=4, learning_rate=0.05)
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    torch.manual_seed(1)
    student = resnet(depth=8, in_channels=1, classes=2, width=4)
    plan = method.plan(whole, Workbench())
    assert plan.steps == 32
    trained, edits = method.apply(student, plan, whole, Workbench())
    inputs, targets = Pixels().batch(1000)
    assert (trained(inputs).argmax(1) == targets).float().mean() == 1.0
    assert not trained.training
    assert [edit.kind for edit in edits] == ["tune"]
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_needs_data() -> None:
    without = dataclasses.replace(subject(), training=None)
    with pytest.raises(DataError, match="needs training data"):
        Response().plan(without, Workbench())


def test_refuses_a_network_of_integers() -> None:
    frozen = subject()
    frozen.model.requires_grad_(False)
    with pytest.raises(StructureError, match="put it before quantize"):
        Response().plan(frozen, Workbench())
