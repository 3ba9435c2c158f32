"""What an operation of a network is, and what several of them share.

A value holds the channels first and the samples second, (channel, sample, row, column) or
(feature, sample): so the product of a kernel with patches is the convolution's result as it lies.
"""

import abc

import numpy as np
from numpy.typing import NDArray

from tersenet.errors import FormatError
from tersenet.formats.matrix import Matrix

__all__ = [
    "Elementwise",
    "Floats",
    "ScaledLayer",
    "Operation",
    "Pair",
    "Shape",
    "Window",
    "pad_image",
    "only",
    "require",
    "scale_and_shift_",
    "window_places",
]

Pair = tuple[int, int]
Floats = NDArray[np.float32]
Shape = tuple[int, ...]


class Operation(abc.ABC):
    """One operation of a network."""

    @abc.abstractmethod
    def shape(self, *shapes: Shape) -> Shape:
        """Shape of one sample's result, from those of what is read.

        Raises:
            FormatError: The operation cannot read these.
        """

    @abc.abstractmethod
    def __call__(self, *values: Floats) -> Floats:
        """Computes the result of all samples; may overwrite nothing it reads."""


class ScaledLayer(Operation):
    """An operation with a matrix, whose rows are scaled and shifted."""

    matrix: Matrix
    scale: Floats | None
    """One factor per row: the steps of a grid by channel, a folded batch norm."""
    bias: Floats | None

    def check_rows(self) -> None:
        """Refuses factors and summands that are not one per row."""
        for vector in (self.scale, self.bias):
            if vector is not None:
                require(vector.shape == self.matrix.shape[:1], self, vector.shape)


class Elementwise(Operation):
    """An operation on one value, whose shape stays."""

    def shape(self, *shapes: Shape) -> Shape:
        """What is read."""
        return only(self, shapes, 1)[0]


class Window(Operation):
    """An operation that moves a window over an image."""

    kernel: Pair
    stride: Pair
    padding: Pair
    """Rows and columns around the image, on either side."""


def only(operation: Operation, shapes: tuple[Shape, ...], count: int) -> tuple[Shape, ...]:
    """The shapes that are read, of which there must be `count`."""
    if len(shapes) != count:
        raise FormatError(
            f"{type(operation).__name__} reads {count} value{'s' if count > 1 else ''}, not"
            f" {len(shapes)}: export the network again."
        )
    return shapes


def require(holds: bool, operation: Operation, shape: Shape) -> None:
    """Refuses a value of this shape unless it holds."""
    if not holds:
        raise FormatError(
            f"{type(operation).__name__} cannot read a value of shape {shape}: export the network"
            " again."
        )


def scale_and_shift_(value: Floats, scale: Floats | None, bias: Floats | None) -> Floats:
    """Scales and shifts channels in place."""
    ones = (1,) * (value.ndim - 1)
    if scale is not None:
        value *= scale.reshape(-1, *ones)
    if bias is not None:
        value += bias.reshape(-1, *ones)
    return value


def pad_image(x: Floats, padding: Pair, value: float) -> Floats:
    """The image with rows and columns of `value` around it."""
    if padding == (0, 0):
        return x
    return np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)), constant_values=value)


def window_places(window: Window, size: Shape, dilation: Pair = (1, 1)) -> Pair:
    """Rows and columns of places that a window visits in an image of this size."""
    places = []
    for at in range(2):
        kernel, stride, padding = window.kernel[at], window.stride[at], window.padding[at]
        sane = kernel > 0 and stride > 0 and padding >= 0 and dilation[at] > 0
        reach = dilation[at] * (kernel - 1) + 1
        require(sane and size[at] + 2 * padding >= reach, window, size)
        places.append((size[at] + 2 * padding - reach) // stride + 1)
    return places[0], places[1]
