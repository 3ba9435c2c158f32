"""Pooling: the largest, or the mean, of each window."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from tersenet.formats.network.operation import (
    Floats,
    Operation,
    Pair,
    Shape,
    Window,
    only,
    pad_image,
    require,
    window_places,
)

__all__ = ["AdaptiveAveragePool", "AveragePool", "MaxPool"]


@final
@dataclass(frozen=True, kw_only=True)
class MaxPool(Window):
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
        for view in _window_views(self, pad_image(values[0], self.padding, -np.inf)):
            out = view.copy() if out is None else np.maximum(out, view, out=out)
        assert out is not None  # a kernel has a place
        return out


@final
@dataclass(frozen=True, kw_only=True)
class AveragePool(Window):
    """The mean of each window; what is pad counts as zeros if `count_padding`."""

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
        total: Any = sum(_window_views(self, pad_image(x, self.padding, 0)))
        if self.count_padding:
            return total / np.float32(self.kernel[0] * self.kernel[1])
        ones = np.ones((1, 1, *x.shape[2:]), np.float32)
        return total / sum(_window_views(self, pad_image(ones, self.padding, 0)))


@final
@dataclass(frozen=True, kw_only=True)
class AdaptiveAveragePool(Operation):
    """Means over as many windows as `size` says, which share the value evenly."""

    size: Pair

    def shape(self, *shapes: Shape) -> Shape:
        """As many channels, of the given size."""
        (shape,) = only(self, shapes, 1)
        require(len(shape) == 3 and min(self.size) > 0, self, shape)
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


def _pooled_shape(pool: MaxPool | AveragePool, shapes: tuple[Shape, ...]) -> Shape:
    (shape,) = only(pool, shapes, 1)
    require(len(shape) == 3, pool, shape)
    # A window of padding alone would have no largest element, and no mean.
    require(all(2 * p <= k for p, k in zip(pool.padding, pool.kernel, strict=True)), pool, shape)
    return (shape[0], *window_places(pool, shape[1:]))


def _window_views(pool: MaxPool | AveragePool, image: Floats) -> list[Floats]:
    """For each place of the window: what lies there, in all windows at once."""
    (height, width), (down, right) = pool.kernel, pool.stride
    rows = (image.shape[2] - height) // down + 1
    columns = (image.shape[3] - width) // right + 1
    return [
        image[:, :, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
        for i in range(height)
        for j in range(width)
    ]
