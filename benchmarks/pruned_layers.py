"""Layers of networks that were really trained, pruned and rounded, for benchmarks."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from tersenet.data import fashion_mnist

__all__ = ["Network", "image_batches", "rounded", "train"]


class Network:
    """Fixed random features → the layer → ReLU → ten classes, trained on Fashion-MNIST."""

    def __init__(self, shape: tuple[int, int]) -> None:
        rows, columns = shape
        generator = torch.Generator().manual_seed(0)  # same layers each time
        self.train_set = images("train")
        self.test_set = images("test")
        self.generator = generator
        self.features = torch.randn(784, columns, generator=generator) / 28
        self.layer = torch.randn(rows, columns, generator=generator) * (2 / columns) ** 0.5
        self.layer.requires_grad_()
        self.head = torch.randn(10, rows, generator=generator) * (1 / rows) ** 0.5
        self.head.requires_grad_()
        self.mask: torch.Tensor | None = None

    def weights(self) -> np.ndarray:
        """The layer, without what is pruned."""
        found = self.layer.detach()
        return (found if self.mask is None else found * self.mask).numpy().copy()

    def logits(self, batch: torch.Tensor, layer: torch.Tensor) -> torch.Tensor:
        """Scores of the classes, with `layer` in the layer's place."""
        return functional.linear(
            functional.relu(functional.linear(functional.relu(batch @ self.features), layer)),
            self.head,
        )

    def fit(self, steps: int, *, rate: float = 0.05) -> None:
        """SGD with a decay that lets weights that do nothing fade."""
        inputs_, targets = self.train_set
        for _ in range(steps):
            picks = torch.randint(len(targets), (64,), generator=self.generator)
            layer = self.layer if self.mask is None else self.layer * self.mask
            functional.cross_entropy(self.logits(inputs_[picks], layer), targets[picks]).backward()
            with torch.no_grad():
                for parameter in (self.layer, self.head):
                    assert parameter.grad is not None
                    parameter.mul_(1 - 1e-3).sub_(parameter.grad, alpha=rate)
                    parameter.grad = None

    def prune(self, zeros: float, *, steps: int) -> None:
        """Cuts the smallest weights and trains on."""
        sizes = self.layer.detach().abs()
        cut = round(sizes.numel() * zeros)
        limit = float(np.partition(sizes.numpy().reshape(-1), cut)[cut])
        self.mask = (sizes >= limit).float()
        self.fit(steps)

    @torch.no_grad()
    def accuracy(self, weights: np.ndarray | None = None) -> float:
        """Top-1 on 2,000 test images."""
        layer = torch.from_numpy(self.weights() if weights is None else weights)
        inputs_, targets = self.test_set
        hits = self.logits(inputs_[:2000], layer).argmax(1) == targets[:2000]
        return float(hits.float().mean())


def images(split: Literal["train", "test"]) -> tuple[torch.Tensor, torch.Tensor]:
    """Flattened images with mean 0 and deviation 1, and their classes."""
    found = fashion_mnist.load(split)
    pixels = found.pixels.flatten(1).float() / 255
    return (pixels - found.mean[0]) / found.std[0], found.labels


def image_batches(
    split: Literal["train", "test"], *, steps: int, batch: int = 64
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches (sample, 1, 28, 28) and their classes: drawn for training, in order for a test."""
    pixels, labels = images(split)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        picks = torch.arange(step * batch, (step + 1) * batch)
        if split == "train":
            picks = torch.randint(len(labels), (batch,), generator=generator)
        yield pixels[picks].view(-1, 1, 28, 28), labels[picks]


def train(shape: tuple[int, int], *, steps: int) -> Network:
    """A trained layer of this shape."""
    network = Network(shape)
    network.fit(steps)
    return network


def rounded(weights: np.ndarray, *, bits: int) -> np.ndarray:
    """An even, symmetric grid of 2**bits - 1 values; zeros stay zero, the rest does not join."""
    top = 2 ** (bits - 1) - 1
    step = float(np.quantile(np.abs(weights[weights != 0]), 0.9995)) / top
    grid = np.clip(np.rint(weights / step), -top, top)
    return (grid * np.float32(step)).astype(np.float32)
