"""Low rank in rounds of compression and training, against all at once.

Gusak et al., "MUSCO: Multi-Stage Compression of neural networks", 2019, arXiv:1903.09973.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch

from tersenet.core.files import load_weights
from tersenet.core.types import Subject, Workbench
from tersenet.decompose import Manual, Rate, Tucker
from tersenet.distill import Response
from tersenet.graph import parameters
from tersenet.models import resnet
from tersenet.train import Classification
from tersenet.train.tasks import load_fashion_mnist

__all__ = ["Staged", "staged_low_rank"]

Tick = Callable[[str, int, int], None]


@final
@dataclass(frozen=True, kw_only=True)
class Staged:
    """What some rounds came to."""

    rounds: int
    params: int
    accuracy: float
    """Share of test images, between 0 and 1."""


def staged_low_rank(
    *,
    rounds: int,
    times: float = 6.0,
    epochs: float = 0.1,
    images: int = 2000,
    weights: Path = Path("weights/resnet20-fashion-mnist.safetensors"),
    tick: Tick = lambda text, done, total: None,
) -> Staged:
    """Factors ResNet-20 by Tucker-2 in `rounds`, each followed by its share of the training.

    The last round has the same ranks whatever the number of rounds, and the training together the
    same number of steps: only what stands between differs. Ranks fall by equal ratios.

    Args:
        rounds: of compression and training.
        times: fewer parameters in each layer at the end.
        epochs: of distillation, all rounds together.
        images: of the test set, to judge by.
        weights: of ResNet-20 on Fashion-MNIST.
        tick: told of progress.
    """
    model = resnet(depth=20, option="B", in_channels=1)
    load_weights(model, weights)
    task: Classification = load_fashion_mnist(test_images=images, calibration=256)
    subject = task.subject(model.eval())
    final = Tucker(ranks=Rate(times=times)).plan(subject, Workbench(tick=tick)).chosen
    step = 0
    for number in range(1, rounds + 1):
        ranks = {
            name: tuple(
                max(low, round(full * (low / full) ** (number / rounds)))
                for low, full in zip(one.ranks, one.full, strict=True)
            )
            for name, one in final.items()
        }
        subject = _step(Tucker(ranks=Manual(layers=ranks)), subject, tick)
        share = Response(epochs=epochs / rounds, learning_rate=0.02)
        trained = replace(subject, training=_From(task, step))
        subject = replace(_step(share, trained, tick), training=task.stream)
        step += max(1, round(epochs / rounds * task.stream.steps_per_epoch))
    assert subject.quality is not None
    return Staged(
        rounds=rounds,
        params=parameters(subject.model)[0],
        accuracy=subject.quality(subject.model).value,
    )


def _step(method: Tucker | Response, subject: Subject, tick: Tick) -> Subject:
    bench = Workbench(tick=tick)
    plan = method.plan(subject, bench)
    torch.manual_seed(0)
    model, _ = method.apply(copy.deepcopy(subject.model), plan, subject, bench)  # pyright: ignore[reportArgumentType]
    return replace(subject, model=model)


@final
@dataclass(frozen=True)
class _From:
    """Training batches that go on where the round before ended."""

    task: Classification
    first: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps that make one pass over the data."""
        return self.task.stream.steps_per_epoch

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns one batch."""
        return self.task.stream.batch(self.first + step)
