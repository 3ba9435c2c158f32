"""What a compressed network computes, in NumPy: layers on any format, and what lies between.

A value holds the channels first and the samples second, (channel, sample, row, column) or
(feature, sample): so the product of a kernel with patches is the convolution's result as it lies.
"""

import abc
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from tersenet.errors import FormatError
from tersenet.formats.matrix import Matrix

__all__ = [
    "OPERATIONS",
    "AdaptiveAveragePool",
    "Add",
    "AveragePool",
    "Convolution",
    "Flatten",
    "Linear",
    "MaxPool",
    "Operation",
    "PerChannel",
    "Relu",
]

Pair = tuple[int, int]
Floats = NDArray[np.float32]
Shape = tuple[int, ...]

_PATCH_BYTES: Final = 1 << 21
"""Patches of a convolution that are laid out at once: what fits beside weights in the cache."""


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


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Operation):
    """scale · (matrix @ x) + bias, of features."""

    matrix: Matrix
    scale: Floats | None = None
    """One factor per row: the steps of a grid by channel, a folded batch norm."""
    bias: Floats | None = None

    def shape(self, *shapes: Shape) -> Shape:
        """The matrix's rows."""
        (shape,) = _only(self, shapes, 1)
        _require(shape == (self.matrix.shape[1],), self, shape)
        _check_rows(self)
        return (self.matrix.shape[0],)

    def __call__(self, *values: Floats) -> Floats:
        """Multiplies all samples."""
        (x,) = values
        product = (self.matrix @ x[:, 0])[:, None] if x.shape[1] == 1 else self.matrix @ x
        return _shifted(product, self.scale, self.bias)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(Operation):
    """A convolution as a product of (output channels, input channels · kernel) with patches."""

    matrix: Matrix
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    scale: Floats | None = None
    bias: Floats | None = None

    def shape(self, *shapes: Shape) -> Shape:
        """The matrix's rows, by what the kernel visits."""
        (shape,) = _only(self, shapes, 1)
        height, width = self.kernel
        _require(len(shape) == 3 and shape[0] * height * width == self.matrix.shape[1], self, shape)
        _check_rows(self)
        return (self.matrix.shape[0], *_visited(self, shape[1:], self.dilation))

    def __call__(self, *values: Floats) -> Floats:
        """Lays out some patches, multiplies, goes on: the patches never lie there all at once."""
        x = _framed(values[0], self.padding, 0)
        rows, columns = self._positions(x)
        samples, wide = x.shape[1], 4 * self.matrix.shape[1] * columns
        lines = max(1, min(rows, _PATCH_BYTES // wide))
        together = max(1, _PATCH_BYTES // (wide * rows))
        out = np.empty((self.matrix.shape[0], samples, rows, columns), np.float32)
        for first in range(0, samples, together):
            some = x[:, first : first + together]
            for top in range(0, rows, lines):
                count = min(lines, rows - top)
                patches = self._patches(some, top, count, columns)
                product = self.matrix @ patches
                shape = (len(out), some.shape[1], count, columns)
                out[:, first : first + together, top : top + count] = product.reshape(shape)
        return _shifted(out, self.scale, self.bias)

    def _positions(self, framed: Floats) -> Pair:
        reach = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        rows, columns = (
            (size - r) // s + 1
            for size, r, s in zip(framed.shape[2:], reach, self.stride, strict=True)
        )
        return rows, columns

    def _patches(self, x: Floats, top: int, rows: int, columns: int) -> Floats:
        """(input channel · kernel, sample · row · column) for some rows of the result."""
        height, width = self.kernel
        (down, right), (apart, beside) = self.stride, self.dilation
        out = np.empty((len(x), height, width, x.shape[1], rows, columns), np.float32)
        for i in range(height):
            above = top * down + i * apart
            lines = slice(above, above + (rows - 1) * down + 1, down)
            for j in range(width):
                left = j * beside
                places = slice(left, left + (columns - 1) * right + 1, right)
                out[:, i, j] = x[:, :, lines, places]
        return out.reshape(len(x) * height * width, -1)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PerChannel(Operation):
    """scale · x + bias by channel: a batch norm with no layer to fold it into."""

    scale: Floats
    bias: Floats

    def shape(self, *shapes: Shape) -> Shape:
        """What is read."""
        (shape,) = _only(self, shapes, 1)
        fits = self.scale.shape == self.bias.shape == shape[:1]
        _require(fits, self, shape)
        return shape

    def __call__(self, *values: Floats) -> Floats:
        """Scales and shifts a copy."""
        return _shifted(values[0].copy(), self.scale, self.bias)


@final
@dataclass(frozen=True, kw_only=True)
class Relu(Operation):
    """max(x, 0)."""

    def shape(self, *shapes: Shape) -> Shape:
        """What is read."""
        return _only(self, shapes, 1)[0]

    def __call__(self, *values: Floats) -> Floats:
        """Cuts what is negative."""
        return np.maximum(values[0], np.float32(0))


@final
@dataclass(frozen=True, kw_only=True)
class Add(Operation):
    """The sum of two values: a residual."""

    def shape(self, *shapes: Shape) -> Shape:
        """What either is."""
        first, second = _only(self, shapes, 2)
        _require(first == second, self, second)
        return first

    def __call__(self, *values: Floats) -> Floats:
        """Adds."""
        return values[0] + values[1]


@final
@dataclass(frozen=True, kw_only=True)
class MaxPool(Operation):
    """The largest of each window."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def shape(self, *shapes: Shape) -> Shape:
        """As many channels, by what the window visits."""
        return _pooled_shape(self, shapes)

    def __call__(self, *values: Floats) -> Floats:
        """Compares the windows' elements place by place."""
        out = None
        for view in _window_views(self, _framed(values[0], self.padding, -np.inf)):
            out = view.copy() if out is None else np.maximum(out, view, out=out)
        assert out is not None  # a kernel has a place
        return out


@final
@dataclass(frozen=True, kw_only=True)
class AveragePool(Operation):
    """The mean of each window; what is padded counts as zeros if `count_padding`."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    count_padding: bool = True

    def shape(self, *shapes: Shape) -> Shape:
        """As many channels, by what the window visits."""
        return _pooled_shape(self, shapes)

    def __call__(self, *values: Floats) -> Floats:
        """Sums the windows' elements place by place."""
        (x,) = values
        total: Any = sum(_window_views(self, _framed(x, self.padding, 0)))
        if self.count_padding:
            return total / np.float32(self.kernel[0] * self.kernel[1])
        ones = np.ones((1, 1, *x.shape[2:]), np.float32)
        return total / sum(_window_views(self, _framed(ones, self.padding, 0)))


@final
@dataclass(frozen=True, kw_only=True)
class AdaptiveAveragePool(Operation):
    """Means over as many windows as `size` says, which share the value evenly."""

    size: Pair

    def shape(self, *shapes: Shape) -> Shape:
        """As many channels, of the given size."""
        (shape,) = _only(self, shapes, 1)
        _require(len(shape) == 3 and min(self.size) > 0, self, shape)
        return (shape[0], *self.size)

    def __call__(self, *values: Floats) -> Floats:
        """Window i of n over s elements goes from floor(i s / n) to ceil((i + 1) s / n)."""
        (x,) = values
        out = np.empty((*x.shape[:2], *self.size), np.float32)
        bounds = [
            [(i * s // n, -(-(i + 1) * s // n)) for i in range(n)]
            for s, n in zip(x.shape[2:], self.size, strict=True)
        ]
        for i, (top, bottom) in enumerate(bounds[0]):
            for j, (left, right) in enumerate(bounds[1]):
                out[:, :, i, j] = x[:, :, top:bottom, left:right].mean(axis=(2, 3))
        return out


@final
@dataclass(frozen=True, kw_only=True)
class Flatten(Operation):
    """Channels, rows and columns as features."""

    def shape(self, *shapes: Shape) -> Shape:
        """All sizes multiplied."""
        return (int(np.prod(_only(self, shapes, 1)[0])),)

    def __call__(self, *values: Floats) -> Floats:
        """Brings the samples behind."""
        (x,) = values
        return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


OPERATIONS: Final[dict[str, type[Operation]]] = {
    kind.__name__: kind
    for kind in (
        *(Linear, Convolution, PerChannel, Relu, Add),
        *(MaxPool, AveragePool, AdaptiveAveragePool, Flatten),
    )
}
"""By the name that a file uses."""


def _only(operation: Operation, shapes: tuple[Shape, ...], count: int) -> tuple[Shape, ...]:
    if len(shapes) != count:
        raise FormatError(
            f"{type(operation).__name__} reads {count} value{'s' if count > 1 else ''}, not"
            f" {len(shapes)}: export the network again."
        )
    return shapes


def _require(holds: bool, operation: Operation, shape: Shape) -> None:
    if not holds:
        raise FormatError(
            f"{type(operation).__name__} cannot read a value of shape {shape}: export the network"
            " again."
        )


def _check_rows(layer: Linear | Convolution) -> None:
    for values in (layer.scale, layer.bias):
        _require(
            values is None or values.shape == layer.matrix.shape[:1],
            layer,
            () if values is None else values.shape,
        )


def _shifted(value: Floats, scale: Floats | None, bias: Floats | None) -> Floats:
    """Scales and shifts channels in place."""
    ones = (1,) * (value.ndim - 1)
    if scale is not None:
        value *= scale.reshape(-1, *ones)
    if bias is not None:
        value += bias.reshape(-1, *ones)
    return value


def _framed(x: Floats, padding: Pair, value: float) -> Floats:
    if padding == (0, 0):
        return x
    return np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)), constant_values=value)


def _visited(
    window: Convolution | MaxPool | AveragePool, size: Shape, dilation: Pair = (1, 1)
) -> Pair:
    """Rows and columns of places that a window visits in an image of this size."""
    places = []
    for at in range(2):
        kernel, stride, padding = window.kernel[at], window.stride[at], window.padding[at]
        sane = kernel > 0 and stride > 0 and padding >= 0 and dilation[at] > 0
        reach = dilation[at] * (kernel - 1) + 1
        _require(sane and size[at] + 2 * padding >= reach, window, size)
        places.append((size[at] + 2 * padding - reach) // stride + 1)
    return places[0], places[1]


def _pooled_shape(pool: MaxPool | AveragePool, shapes: tuple[Shape, ...]) -> Shape:
    (shape,) = _only(pool, shapes, 1)
    _require(len(shape) == 3, pool, shape)
    # A window of padding alone would have no largest element, and no mean.
    _require(all(2 * p <= k for p, k in zip(pool.padding, pool.kernel, strict=True)), pool, shape)
    return (shape[0], *_visited(pool, shape[1:]))


def _window_views(pool: MaxPool | AveragePool, framed: Floats) -> list[Floats]:
    """For each place of the window: what lies there, in all windows at once."""
    (height, width), (down, right) = pool.kernel, pool.stride
    rows = (framed.shape[2] - height) // down + 1
    columns = (framed.shape[3] - width) // right + 1
    return [
        framed[
            :, :, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right
        ]
        for i in range(height)
        for j in range(width)
    ]
