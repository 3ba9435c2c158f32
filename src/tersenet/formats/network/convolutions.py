"""Convolutions as products with patches, and those of one channel each."""

from dataclasses import dataclass
from typing import Final, final

import numpy as np

from tersenet.formats.matrix import Matrix
from tersenet.formats.network.operation import (
    Floats,
    Pair,
    ScaledLayer,
    Shape,
    Window,
    only,
    pad_image,
    require,
    scale_and_shift_,
    window_places,
)

__all__ = ["Convolution", "Depthwise"]

_PATCH_BYTES: Final = 1 << 21
"""Patches of a convolution that are laid out at once: what fits beside weights in the cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Filter(ScaledLayer, Window):
    """What all convolutions are told."""

    matrix: Matrix
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    scale: Floats | None = None
    bias: Floats | None = None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(_Filter):
    """A convolution as a product of (output channels, input channels · kernel) with patches."""

    def shape(self, *shapes: Shape) -> Shape:
        """The matrix's rows, by what the kernel visits."""
        (shape,) = only(self, shapes, 1)
        height, width = self.kernel
        require(len(shape) == 3 and shape[0] * height * width == self.matrix.shape[1], self, shape)
        self.check_rows()
        return (self.matrix.shape[0], *window_places(self, shape[1:], self.dilation))

    def __call__(self, *values: Floats) -> Floats:
        """Lays out some patches, multiplies, goes on: the patches never lie there all at once."""
        x = pad_image(values[0], self.padding, 0)
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
        return scale_and_shift_(out, self.scale, self.bias)

    def _positions(self, image: Floats) -> Pair:
        reach = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        rows, columns = (
            (size - r) // s + 1
            for size, r, s in zip(image.shape[2:], reach, self.stride, strict=True)
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
class Depthwise(_Filter):
    """A convolution of one channel at a time, with (output channels, kernel) as its matrix.

    Output r reads channel r // m, m being outputs per channel. Its few weights are decoded when
    it runs; then a product per place of the kernel serves all channels and samples.
    """

    def shape(self, *shapes: Shape) -> Shape:
        """The matrix's rows, by what the kernel visits."""
        (shape,) = only(self, shapes, 1)
        rows, places = self.matrix.shape
        fits = len(shape) == 3 and self.kernel[0] * self.kernel[1] == places
        require(fits and shape[0] > 0 and rows % shape[0] == 0, self, shape)
        self.check_rows()
        return (rows, *window_places(self, shape[1:], self.dilation))

    def __call__(self, *values: Floats) -> Floats:
        """Adds weight · image, place by place of the kernel."""
        (x,) = values
        shape = self.shape((len(x), *x.shape[2:]))
        image = pad_image(x, self.padding, 0)
        if len(x) != shape[0]:
            image = np.repeat(image, shape[0] // len(x), axis=0)
        weights = self.matrix.dense().astype(np.float32)[:, :, None, None, None]
        out = np.zeros((shape[0], x.shape[1], *shape[1:]), np.float32)
        part = np.empty_like(out)
        (down, right), (apart, beside) = self.stride, self.dilation
        for place in range(weights.shape[1]):
            top, left = place // self.kernel[1] * apart, place % self.kernel[1] * beside
            lines = slice(top, top + (shape[1] - 1) * down + 1, down)
            columns = slice(left, left + (shape[2] - 1) * right + 1, right)
            out += np.multiply(weights[:, place], image[:, :, lines, columns], out=part)
        return scale_and_shift_(out, self.scale, self.bias)
