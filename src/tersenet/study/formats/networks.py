"""Layers of four networks for 224x224 images as matrices, and how often each multiplies.

A convolution is a matrix (output channels, input channels · kernel) that multiplies one patch per
place of its output. AlexNet: Krizhevsky, "One weird trick", 2014, arXiv:1404.5997, as torchvision
has it. VGG-16: arXiv:1409.1556. ResNet-152: arXiv:1512.03385. DenseNet-161: arXiv:1608.06993.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

__all__ = ["NETWORKS", "MatrixLayer"]


@final
@dataclass(frozen=True, kw_only=True)
class MatrixLayer:
    """One layer's matrix."""

    rows: int
    columns: int
    positions: int
    """Products per image."""
    linear: bool = False


def _alexnet() -> Iterator[MatrixLayer]:
    for inputs, outputs, kernel, size in (
        *((3, 64, 11, 55), (64, 192, 5, 27), (192, 384, 3, 13), (384, 256, 3, 13)),
        (256, 256, 3, 13),
    ):
        yield _convolution(inputs, outputs, kernel, size)
    yield from (_linear(9216, 4096), _linear(4096, 4096), _linear(4096, 1000))


def _vgg16() -> Iterator[MatrixLayer]:
    channels, size = 3, 224
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            yield _convolution(channels, width, 3, size)
            channels = width
        size //= 2
    yield from (_linear(25088, 4096), _linear(4096, 4096), _linear(4096, 1000))


def _resnet152() -> Iterator[MatrixLayer]:
    yield _convolution(3, 64, 7, 112)
    channels, size = 64, 56
    for width, depth in ((64, 3), (128, 8), (256, 36), (512, 3)):
        halves = width > 64
        for block in range(depth):
            # The first 3x3 of a stage halves the image, as in torchvision.
            yield _convolution(channels, width, 1, size)
            size //= 2 if halves and block == 0 else 1
            yield _convolution(width, width, 3, size)
            yield _convolution(width, 4 * width, 1, size)
            if block == 0:
                yield _convolution(channels, 4 * width, 1, size)
            channels = 4 * width
    yield _linear(2048, 1000)


def _densenet161() -> Iterator[MatrixLayer]:
    growth, channels, size = 48, 96, 56
    yield _convolution(3, channels, 7, 112)
    for depth in (6, 12, 36, 24):
        for _ in range(depth):
            yield _convolution(channels, 4 * growth, 1, size)
            yield _convolution(4 * growth, growth, 3, size)
            channels += growth
        if size > 7:
            yield _convolution(channels, channels // 2, 1, size)
            channels, size = channels // 2, size // 2
    yield _linear(channels, 1000)


def _convolution(inputs: int, outputs: int, kernel: int, size: int) -> MatrixLayer:
    return MatrixLayer(rows=outputs, columns=inputs * kernel**2, positions=size**2)


def _linear(inputs: int, outputs: int) -> MatrixLayer:
    return MatrixLayer(rows=outputs, columns=inputs, positions=1, linear=True)


NETWORKS: Final[dict[str, tuple[MatrixLayer, ...]]] = {
    "AlexNet": tuple(_alexnet()),
    "VGG-16": tuple(_vgg16()),
    "ResNet-152": tuple(_resnet152()),
    "DenseNet-161": tuple(_densenet161()),
}
