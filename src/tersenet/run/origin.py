"""What a run is of: the network, its weights, the data and how they are used.

A run folder is gone on with by whoever names it. That it is the same network and the same data
cannot be seen from shapes: their digests lie in the run's header, and what differs is named.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final, final

import torch
from torch import Tensor, nn

from tersenet.core.digest import alike, digest
from tersenet.data import Images
from tersenet.train import Classification

__all__ = ["Origin", "data_digest", "differences", "origin_of"]

ANSWERS: Final = 64
"""Outputs on the first training images that are kept: what `forward` computes, not its text."""


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What a run began from."""

    network: str
    """The class."""
    weights: str
    """SHA-256 over the state dict."""
    training_data: str
    test_data: str
    """SHA-256 over pixels, labels, and how they are normalised."""
    task: Mapping[str, int | bool]
    """Its options: the size of batches, augmentation, how much calibrates."""
    answers: tuple[float, ...]
    """The first outputs on the first training images."""


def origin_of(model: nn.Module, task: Classification, outputs: Tensor) -> Origin:
    """Returns what tells this network and task from all others; `outputs` are its own."""
    return Origin(
        network=f"{type(model).__module__}.{type(model).__qualname__}",
        weights=digest(model.state_dict()),
        training_data=data_digest(task.train),
        test_data=data_digest(task.test),
        task={
            field.name: getattr(task, field.name)
            for field in dataclasses.fields(task)
            if field.name not in ("train", "test")
        },
        answers=tuple(outputs.detach().double().flatten()[:ANSWERS].tolist()),
    )


def differences(was: Origin, now: Origin) -> list[str]:
    """Returns what is other now than it was, in words; empty where all is the same."""
    found = []
    if was.weights != now.weights:
        found.append("weights")
    if was.training_data != now.training_data:
        found.append("training data")
    if was.test_data != now.test_data:
        found.append("test data")
    found += [
        f"{name} ({was.task.get(name)} then, {now.task.get(name)} now)"
        for name in sorted({*was.task, *now.task})
        if was.task.get(name) != now.task.get(name)
    ]
    # A class may move from one module to another; what it computes counts.
    if not found and not alike(was.answers, now.answers):
        found.append(f"forward ({was.network} then, {now.network} now, with other answers)")
    return found


def data_digest(images: Images) -> str:
    """Returns the SHA-256 over images, labels and how they are normalised."""
    return digest(
        {
            "pixels": images.pixels,
            "labels": images.labels,
            "mean": torch.tensor(images.mean, dtype=torch.float64),
            "std": torch.tensor(images.std, dtype=torch.float64),
        }
    )
