"""Training: the schedule, exact resume, and what stops it."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from tersenet.core.types import Workbench
from tersenet.errors import MeasureError, RunError
from tersenet.models import resnet
from tersenet.train import TrainingOptions, fit


@dataclasses.dataclass(frozen=True)
class Noise:
    """Batches of noise with random labels."""

    steps_per_epoch: int = 5

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 1, 8, 8, generator=generator)
        return inputs, torch.randint(0, 3, (8,), generator=generator)


OPTIONS = TrainingOptions(epochs=3, learning_rate=0.1, checkpoint_seconds=0)


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return resnet(depth=8, in_channels=1, classes=3, width=4)


def cross_entropy(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(model(inputs), targets)


def test_schedule_warms_up_then_follows_the_cosine_to_zero() -> None:
    options = TrainingOptions(epochs=1, learning_rate=0.4, warmup=0.1)
    rates = [options.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[9] == pytest.approx(0.4)
    assert rates[55] == pytest.approx(0.2 * (1 + math.cos(math.pi * 0.5)))
    assert rates[-1] < 1e-3 * 0.4
    assert max(rates) == pytest.approx(0.4)


class StopError(Exception):
    """Raised by a test to end a training at a step."""


@pytest.mark.parametrize("last", [1, 5, 7, 14])
def test_resumes_bit_for_bit(tmp_path: Path, last: int) -> None:
    whole = fit(fresh(), Noise(), cross_entropy, OPTIONS)

    def stop(text: str, done: int, total: int) -> None:
        if done == last + 1:
            raise StopError

    with pytest.raises(StopError):
        fit(fresh(), Noise(), cross_entropy, OPTIONS, bench=Workbench(tmp_path, stop))
    seen: list[int] = []
    bench = Workbench(tmp_path, lambda text, done, total: seen.append(done))
    resumed = fit(fresh(), Noise(), cross_entropy, OPTIONS, bench=bench)
    assert seen[0] == last + 1
    for (name, value), other in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    whole = fit(fresh(), Noise(), cross_entropy, OPTIONS, bench=Workbench(tmp_path))
    seen: list[int] = []
    bench = Workbench(tmp_path, lambda text, done, total: seen.append(done))
    again = fit(fresh(), Noise(), cross_entropy, OPTIONS, bench=bench)
    assert seen == []
    assert torch.equal(whole.linear.weight, again.linear.weight)


def test_refuses_the_checkpoint_of_another_training(tmp_path: Path) -> None:
    fit(fresh(), Noise(), cross_entropy, OPTIONS, bench=Workbench(tmp_path))
    longer = dataclasses.replace(OPTIONS, epochs=4)
    with pytest.raises(RunError, match="checkpoint of another training"):
        fit(fresh(), Noise(), cross_entropy, longer, bench=Workbench(tmp_path))


def test_divergence_is_an_error() -> None:
    def diverge(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model, inputs, targets) * math.nan

    with pytest.raises(MeasureError, match="nan at training step 0: lower learning_rate"):
        fit(fresh(), Noise(), diverge, OPTIONS)


def test_matches_torch_written_out() -> None:
    def wide() -> nn.Module:
        # With fewer channels torch's own loop corrupts memory in this layout: see train/layout.py.
        torch.manual_seed(0)
        return resnet(depth=8, in_channels=1, classes=3, width=16)

    ours = fit(wide(), Noise(), cross_entropy, OPTIONS)
    theirs = wide().to(memory_format=torch.channels_last).train()
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    plain = [p for p in theirs.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": plain}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for step in range(15):
        for group in optimizer.param_groups:
            # One step of warm-up (5 % of 15), then fourteen of the cosine.
            cosine = 0.05 * (1 + math.cos(math.pi * (step - 1) / 14))
            group["lr"] = 0.1 if step == 0 else cosine
        inputs, targets = Noise().batch(step)
        optimizer.zero_grad()
        functional.cross_entropy(
            theirs(inputs.to(memory_format=torch.channels_last)), targets
        ).backward()
        optimizer.step()
    torch.testing.assert_close(ours.linear.weight, theirs.linear.weight, rtol=1e-6, atol=1e-7)
