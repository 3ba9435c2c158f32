"""Rows 43 to 46: learning from a teacher."""

import copy
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.data import Images, TrainingStream, fashion_mnist
from tersenet.distill import response_loss
from tersenet.train import TrainingOptions, fit

T_975 = 4.302653
"""Student's t at 97.5 % with 2 degrees of freedom: three seeds."""


def convolutional(width: int) -> nn.Module:
    return nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(1, width, 3, 2, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 10),
    )


def labels_only(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(model(inputs), targets)


def trained(
    model: nn.Module,
    images: Images,
    objective: Callable[[nn.Module, Tensor, Tensor], Tensor],
    *,
    seed: int,
    epochs: float,
) -> nn.Module:
    stream = TrainingStream(images=images, batch_size=100, seed=seed)
    return fit(model, stream, objective, TrainingOptions(epochs=epochs, learning_rate=0.05))


def test_row_43_response(fashion_folder: Path, record_property: Callable[..., None]) -> None:
    """Response distillation, with its control.

    The gradient by the student's logits is alpha (S_s - y) + (lambda/tau)(S_s(tau) - S_t(tau)),
    and tau^2 times the last term when asked for. Three students learn from a teacher and the
    same three from labels alone: the gain is stated with its 95 % interval, whatever its sign.
    """
    student = torch.randn(7, 10, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(7, 10, dtype=torch.float64)
    targets = torch.randint(0, 10, (7,))
    for tau, weight, hard, squared in ((1.0, 1.0, 1.0, False), (4.0, 0.7, 0.3, True)):
        loss = response_loss(
            student,
            teacher,
            targets,
            temperature=tau,
            weight=weight,
            hard_weight=hard,
            squared=squared,
        )
        (found,) = torch.autograd.grad(loss, student)
        soft = (student / tau).softmax(1) - (teacher / tau).softmax(1)
        expected = hard * (student.softmax(1) - functional.one_hot(targets, 10))
        expected = expected + weight / tau * (tau**2 if squared else 1) * soft
        assert torch.allclose(found, expected / 7, atol=1e-12)

    train = fashion_mnist.load("train", fashion_folder).head(8000)
    inputs, labels = next(fashion_mnist.load("test", fashion_folder).head(2000).batches(2000))
    master = trained(convolutional(24), train, labels_only, seed=9, epochs=3)

    def from_teacher(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            answers = master(x)
        return response_loss(
            model(x), answers, y, temperature=4, weight=0.5, hard_weight=0.5, squared=True
        )

    scores: dict[str, list[float]] = {"labels": [], "teacher": []}
    for seed in range(3):
        torch.manual_seed(seed)
        start = convolutional(4)
        for name, objective in (("labels", labels_only), ("teacher", from_teacher)):
            model = trained(copy.deepcopy(start), train, objective, seed=seed, epochs=3)
            with torch.no_grad():
                right = (model(inputs).argmax(1) == labels).double().mean().item()
            scores[name].append(100 * right)
    gains = torch.tensor(scores["teacher"]) - torch.tensor(scores["labels"])
    half = T_975 * gains.std().item() / math.sqrt(3)
    text = (
        f"labels alone {sum(scores['labels']) / 3:.2f} %, with the teacher "
        f"{sum(scores['teacher']) / 3:.2f} %: gain {gains.mean():+.2f} ± {half:.2f} points"
    )
    record_property("finding", text)
    print(text)
    # Both learn: a student that does not would make the comparison mean nothing.
    assert min(scores["labels"] + scores["teacher"]) > 70, text
    # The teacher neither harms nor helps beyond what such short runs can show.
    assert abs(gains.mean().item()) < 5, text


@pytest.mark.not_built
def test_row_44_hints() -> None:
    """FitNets hints.

    Half the squared distance through a learned regressor, in one stage or two; the exported
    network holds no trace of the regressor.
    """
    hint = import_module("tersenet.distill").Hint(teacher_site="0", student_site="0")
    regressor = hint.regressor(student_width=4, teacher_width=8)
    guided, wanted = torch.randn(2, 4, 5, 5), torch.randn(2, 8, 5, 5)
    found = hint.loss(guided, wanted, regressor)
    expected = 0.5 * (wanted - regressor(guided)).square().flatten(1).sum(1).mean()
    assert torch.allclose(found, expected)
    assert hint.stages in (1, 2)
    assert not [name for name in hint.exported_names() if "regressor" in name]


@pytest.mark.not_built
def test_row_45_relations() -> None:
    """Attention transfer, flow between layers, relations between samples.

    The distance relation is blind to scaling and the angle relation to rotation; both see
    noise.
    """
    distill = import_module("tersenet.distill")
    x = torch.randn(12, 6)
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    noise = x + torch.randn(12, 6)
    for loss, same in ((distill.distance_loss, 3 * x), (distill.angle_loss, x @ turn)):
        assert loss(same, x).item() == pytest.approx(0, abs=1e-6)
        assert loss(noise, x) > 1e-3
    maps = torch.rand(2, 3, 4, 4)
    assert distill.attention_loss(maps, maps).item() == 0
    assert distill.flow_matrix(maps, maps).shape == (2, 3, 3)


@pytest.mark.not_built
def test_row_46_ensembles_and_assistants() -> None:
    """Ensembles, assistants and the capacity gap.

    An ensemble's target is the mean of the softened answers; a table gives the student's
    accuracy for each size of teacher, with and without an assistant.
    """
    answers = torch.randn(3, 5, 10)
    target = import_module("tersenet.distill").ensemble_target(answers, temperature=2.0)
    assert torch.allclose(target, (answers / 2).softmax(2).mean(0))
    rows = import_module("tersenet.study").capacity_gap(teachers=(8, 14, 20))
    assert [row.teacher for row in rows] == [8, 14, 20]
    assert all(row.with_assistant is not None for row in rows[1:])
