"""Labelled images in memory, and the endless stream of training batches drawn from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tersenet.core.types import Batch

__all__ = ["Images", "TrainingStream", "statistics"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Images as bytes, normalised when they are read."""

    pixels: UInt8[Tensor, "sample channel height width"]
    labels: Int[Tensor, " sample"]
    mean: tuple[float, ...]
    """Per channel, of pixels scaled to [0, 1]."""
    std: tuple[float, ...]
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int) -> "Images":
        """Returns the first `count` images."""
        name = self.name if count >= len(self) else f"{self.name}, first {count}"
        return Images(
            pixels=self.pixels[:count],
            labels=self.labels[:count],
            mean=self.mean,
            std=self.std,
            name=name,
        )

    def tail(self, count: int) -> "Images":
        """Returns all images but the first `count`."""
        return Images(
            pixels=self.pixels[count:],
            labels=self.labels[count:],
            mean=self.mean,
            std=self.std,
            name=f"{self.name}, after {count}",
        )

    def normalised(
        self, pixels: UInt8[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample channel height width"]:
        """Returns pixels as floats of zero mean and unit deviation per channel."""
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        return (pixels.float() / 255 - mean) / std

    def batches(self, size: int) -> Iterator[Batch]:
        """Yields (inputs, targets) in order, the last batch possibly smaller."""
        for start in range(0, len(self), size):
            stop = start + size
            yield self.normalised(self.pixels[start:stop]), self.labels[start:stop]


def statistics(
    pixels: UInt8[Tensor, "sample channel height width"],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel, of pixels scaled to [0, 1].

    Counted by value, so that they are exact however many images there are. A channel that is
    constant is given the deviation 1, which leaves it zero when it is normalised.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in pixels.unbind(1):
        share = torch.bincount(channel.flatten().long(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        variance = float((share * (values - mean).square()).sum())
        means.append(float(mean))
        deviations.append(variance**0.5 or 1.0)
    return tuple(means), tuple(deviations)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingStream:
    """Training batches as a pure function of the step, so that training resumes exactly.

    Each epoch is a new permutation; each batch is augmented by a crop of the image padded by
    `pad` pixels and a horizontal flip with probability one half (He et al. 2015, section 4.2),
    and by a square of `cutout` pixels at a random place, set to the mean (DeVries, Taylor,
    "Improved Regularization of Convolutional Neural Networks with Cutout", 2017,
    arXiv:1708.04552).
    """

    images: Images
    batch_size: int
    seed: int
    pad: int = 0
    flip: bool = False
    cutout: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch; the remainder of each permutation is left out."""
        return max(1, len(self.images) // self.batch_size)

    def batch(self, step: int) -> Batch:
        """Returns the inputs and targets of one training step, counted from zero."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.batch_size
        chosen = _permutation(len(self.images), self.seed, epoch)[start : start + self.batch_size]
        pixels = self.images.pixels[chosen]
        generator = torch.Generator().manual_seed(_mix(self.seed, step, 1))
        if self.flip:
            mirrored = torch.rand(len(pixels), generator=generator) < 0.5
            pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        if self.pad:
            pixels = _random_crop(pixels, self.pad, generator)
        inputs = self.images.normalised(pixels)
        if self.cutout:
            inputs = _cut_out(inputs, self.cutout, generator)
        return inputs, self.images.labels[chosen]


def _cut_out(inputs: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Zeroes a square of each image, of which what falls outside is cut off."""
    count, _, height, width = inputs.shape
    tops = torch.randint(0, height, (count,), generator=generator) - side // 2
    lefts = torch.randint(0, width, (count,), generator=generator) - side // 2
    rows, columns = torch.arange(height) - tops[:, None], torch.arange(width) - lefts[:, None]
    within = [(places >= 0) & (places < side) for places in (rows, columns)]
    square = within[0][:, None, :, None] & within[1][:, None, None, :]
    return inputs.masked_fill(square, 0)


def _random_crop(pixels: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    count, _, height, width = pixels.shape
    padded = torch.nn.functional.pad(pixels, (pad, pad, pad, pad))
    tops, lefts = torch.randint(0, 2 * pad + 1, (2, count), generator=generator)
    rows = (tops[:, None] + torch.arange(height))[:, None, :, None]  # (sample, 1, height, 1)
    columns = (lefts[:, None] + torch.arange(width))[:, None, None, :]  # (sample, 1, 1, width)
    channels = torch.arange(pixels.shape[1])[None, :, None, None]
    return padded[torch.arange(count)[:, None, None, None], channels, rows, columns]


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(_mix(seed, epoch, 0))
    return torch.randperm(count, generator=generator)


def _mix(seed: int, index: int, purpose: int) -> int:
    # Distinct streams per (seed, index, purpose); any fixed injective-enough mix will do.
    return (seed * 1_000_003 + index) * 2 + purpose
