"""The loss of response distillation against its closed form, and the method's promises."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from tersenet.core.types import Subject, Workbench
from tersenet.distill import Response, response, response_loss, teacher
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


@pytest.mark.parametrize(("minutes", "steps"), [(1.0, 6), (0.1, 1), (60.0, 32), (None, 32)])
def test_trains_no_longer_than_it_may(
    minutes: float | None, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which each step takes ten seconds, and the first ones a hundred."""
    seconds = iter([100.0, 200.0, *(300.0 + 10 * step for step in range(100))])
    monkeypatch.setattr(response, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    whole = subject()
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    plan = Response(epochs=4, minutes=minutes).plan(whole, Workbench())
    assert plan.steps == steps
    assert plan.epochs == pytest.approx(steps / 8)
    assert ("of 4, in" in plan.summary) == (steps < 32)
    for name, value in whole.model.state_dict().items():  # it was timed on a copy
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_plan_says_how_long_it_trains() -> None:
    whole = subject()
    plan = dataclasses.replace(Response(epochs=4).plan(whole, Workbench()), steps=3)
    ticks: list[tuple[int, int]] = []
    bench = Workbench(tick=lambda text, done, total: ticks.append((done, total)))
    Response(epochs=4).apply(copy.deepcopy(whole.model), plan, whole, bench)
    assert ticks == [(1, 3), (2, 3), (3, 3)]


def test_a_teacher_answers_alike_on_either_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = subject()
    assert whole.original is not None
    inputs, _ = Pixels().batch(0)
    with torch.no_grad():
        expected = whole.original(inputs)
    for engine in ("pytorch", "onnxruntime"):
        with teacher.open_teacher(whole.original, whole.example, engine) as answer:
            found = answer(inputs.to(memory_format=torch.channels_last))
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("worth", "sooner"), [(0.0, True), (1e9, True), (0.0, False)])
def test_the_engine_that_answers_sooner_is_taken(
    worth: float, sooner: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = subject()
    assert whole.original is not None
    inputs, _ = Pixels().batch(0)

    def seconds(answer: teacher.Teacher, inputs: torch.Tensor) -> float:
        found = answer(inputs)
        exact = whole.original is not None and torch.equal(found, whole.original(inputs))
        return 1.0 if exact == sooner else 2.0  # PyTorch's answers are exact

    monkeypatch.setattr(teacher, "_seconds", seconds)
    monkeypatch.setattr(teacher, "_WORTH_SECONDS", worth)
    engine = teacher.faster_engine(whole.original, whole.example, inputs, steps=100)
    assert engine == ("pytorch" if sooner or worth else "onnxruntime")


def test_a_network_without_a_file_teaches_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean() + torch.zeros(len(x), 2) if float(x.sum()) > 0 else x.flatten(1)[:, :2]

    monkeypatch.setattr(teacher, "_WORTH_SECONDS", 0.0)
    inputs = torch.ones(4, 1, 8, 8)
    assert teacher.faster_engine(Odd(), (inputs,), inputs, steps=100) == "pytorch"
