"""A step that takes a hundred times its predecessors' time is told to the user."""

import logging
import time

import pytest
import torch
from torch import nn
from torch.nn import functional

from tersenet.core.types import Workbench
from tersenet.models import resnet
from tersenet.train import TrainingOptions, fit
from tersenet.train.pace import Pace


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def told(durations: list[float]) -> list[str | None]:
    clock = Clock()
    pace, said = Pace(clock=clock), []
    for step, seconds in enumerate(durations):
        clock.now += 1000  # what happens between steps does not count
        pace.begin()
        clock.now += seconds
        said.append(pace.end(step))
    return said


def test_a_hundred_times_the_usual_is_told_once() -> None:
    said = told([2.0, 0.1, 0.1, 0.1, 9.9, 10.1, 0.1])
    assert [one is not None for one in said] == [False] * 5 + [True, False]
    assert said[5] is not None
    assert said[5].startswith("training step 5 took 10 s, those before it 0.100 s:")


def test_short_steps_are_not_worth_a_word() -> None:
    assert told([0.001, 0.001, 0.001, 4.9]) == [None] * 4
    assert told([0.001, 0.001, 0.001, 5.1])[-1] is not None


def test_the_first_steps_have_nothing_to_be_compared_with() -> None:
    assert told([0.01, 60.0, 60.0]) == [None] * 3


def test_a_training_tells_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Batches:
        steps_per_epoch = 6

        def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)

    clock, calls = Clock(), []

    def slow_once(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        clock.now += 600.0 if calls[-1] == 4 else 0.25
        return functional.cross_entropy(model(inputs), targets)

    monkeypatch.setattr(time, "monotonic", clock)
    ticks: list[str] = []
    with caplog.at_level(logging.WARNING, logger="tersenet.train.loop"):
        fit(
            resnet(depth=8, in_channels=1, classes=3, width=4),
            Batches(),
            slow_once,
            TrainingOptions(epochs=1, learning_rate=0.01),
            bench=Workbench(tick=lambda text, done, total: ticks.append(text)),
        )
    (said,) = caplog.messages
    assert said.startswith("training step 4 took 600 s, those before it 0.250 s:")
    assert [text == said for text in ticks] == [False] * 4 + [True, False]
