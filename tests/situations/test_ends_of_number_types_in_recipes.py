"""One layer's weights are multiplied by what the next divides by, from 1e-30 to 1e30."""

import copy

import pytest
import torch
from torch import nn

from tersenet.core.types import Score, Subject, Workbench
from tersenet.encode import Encoding, Feedback, RateDistortion
from tersenet.errors import QuantizeError
from tersenet.quantize import Static
from tersenet.repair import flush_denormals_

SCALES = [1e-30, 1e-18, 1e-9, 1e9, 1e18, 1e30]


def network(scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 5),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(scale)
        model[2].weight /= scale
    return model.eval()


def subject(scale: float = 1.0) -> Subject:
    model = network(scale)
    inputs = torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        truth = model(inputs).argmax(1)

    def quality(predict) -> Score:
        with torch.no_grad():
            right = (predict(inputs).argmax(1) == truth).numpy()
        return Score(value=float(right.mean()), samples=96, split="own answers", correct=right)

    calibration = [(inputs[:32], truth[:32]), (inputs[32:64], truth[32:64])]
    return Subject(
        model=model, example=(inputs[:2],), calibration=calibration, quality=quality,
        original=model,
    )  # fmt: skip


def error(whole: Subject, changed: nn.Module) -> float:
    """Returns how far the outputs moved, relative to them."""
    inputs = torch.cat([batch for batch, _ in whole.calibration])
    with torch.no_grad():
        before, after = whole.model(inputs), changed(inputs)
    return float((after - before).norm() / before.norm())


def applied(method, whole: Subject) -> tuple[nn.Module, object]:
    plan = method.plan(whole, Workbench())
    return method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())[0], plan


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "method", [RateDistortion(lam=1e-9, samples=32), Feedback(lam=1e-9, samples=32)]
)
def test_coding_loses_no_more_than_at_scale_one(method: Encoding, scale: float) -> None:
    usual, _ = applied(method, subject())
    whole = subject(scale)
    coded, plan = applied(method, whole)
    assert error(whole, coded) < 2 * error(subject(), usual) + 1e-3
    assert all(0 < step < float("inf") for step in plan.steps.values())
    layers = {f"{layer}.weight" for layer in (0, 2, 5)}
    left = {skip.site for skip in plan.skips}
    assert layers - left <= set(plan.steps)
    if 1e-20 < scale < 1e20:  # a step of every tensor has its 32-bit float
        assert not left


@pytest.mark.parametrize("scale", SCALES)
def test_integers_lose_no_more_than_at_scale_one(scale: float) -> None:
    usual, _ = applied(Static(), subject())
    whole = subject(scale)
    quantised, _ = applied(Static(), whole)
    assert error(whole, quantised) < 2 * error(subject(), usual)


def test_values_without_a_scale_are_refused_by_name() -> None:
    with pytest.raises(QuantizeError, match=r"0\.output: .* no 32-bit float"):
        Static().plan(subject(1e-38), Workbench())


def test_a_tensor_that_is_tiny_all_over_is_not_set_to_zero() -> None:
    model = network(1e-31)
    whole = copy.deepcopy(model)
    assert flush_denormals_(model) == 0
    with torch.no_grad():
        model[5].weight[0, :7] = 1e-33
        assert flush_denormals_(model) == 7
    assert torch.equal(model[0].weight, whole[0].weight)
