"""Evenly spaced values, multiplied in integers: four bits an element or eight, dense.

x is written as three signed bytes an element, 24 bits of fixed point with one scale, and every
byte is multiplied with the codes by the processor's 8-bit dot product: a 64-byte line of 128
codes of four bits takes nine instructions, one of 64 codes of eight bits three. The sums are
integers, so they are exact and do not depend on their order; what is rounded is x, once, to 6e-8
of its largest element.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError
from tersenet.formats.fast.base import MANY, FastMatrix, float32_values, pad_codes
from tersenet.formats.fast.even_kernels import DECODERS, multiply
from tersenet.formats.fast.packed import BATCHED, multiply_decoded, pack_fields, unpack_fields
from tersenet.formats.lanes import LANES
from tersenet.formats.levels import Levels

__all__ = ["Even", "uses_blas", "even_bits", "even_codes"]

_SMALL: Final = 1 << 18
"""Elements below which a product with one vector takes little more than its call."""
_ORDER: Final = {4: (0, 4, 1, 5, 2, 6, 3, 7), 8: (0, 1, 2, 3)}
"""Column of each code of a word from the lowest, by the bits of a code: of eight columns, bytes
hold 0 to 3 in their lower half and 4 to 7 in their upper."""
_MOST_COLUMNS: Final = {4: 1 << 20, 8: 1 << 16}
"""Beyond, sums of 15 · 128 or 255 · 128 a column could leave 32 bits."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Even(FastMatrix):
    """Up to 256 values first + k · step, each as its k: 4 bits up to k = 15, else 8."""

    stream = ("words",)

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    """The distinct values, by falling frequency."""
    codes: NDArray[np.uint8]
    """The k of each value."""
    first: float
    step: float
    words: NDArray[np.uint32]
    """(slab, group of eight columns or four, row in slab)."""

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Even":
        """Packs the place of each value on the grid.

        Raises:
            FormatError: Values that are not on an even grid of 256 or that float32 cannot hold,
                or more columns than 32 bits can sum: 1,048,576, or 65,536 beyond 16 places.
        """
        levels = Levels.of(matrix)
        values = float32_values(levels, limit=MANY, format_name="Even")
        grid = even_codes(values, most=MANY - 1)
        if grid is None:
            raise FormatError(
                f"Even holds values of one even grid of {MANY} and this matrix has others: use"
                " Packed."
            )
        first, step, codes = grid
        bits = even_bits(codes)
        if levels.shape[1] > _MOST_COLUMNS[bits]:
            raise FormatError(
                f"Even sums up to {_MOST_COLUMNS[bits]} columns of {bits} bits and the matrix has"
                f" {levels.shape[1]}: use Packed, or split it."
            )
        together = 32 // bits
        fields = pad_codes(codes[levels.ranks], rows=2 * LANES, columns=together)
        ordered = fields.reshape(len(fields), -1, together)[..., _ORDER[bits]]
        return cls(
            shape=levels.shape,
            dtype=levels.values.dtype,
            values=levels.values,
            codes=codes,
            first=first,
            step=step,
            words=pack_fields(ordered.reshape(fields.shape), per_word=together, bits=bits),
        )

    def dense(self) -> NDArray[Any]:
        """The matrix again."""
        bits = self.code_bits
        fields = unpack_fields(self.words, per_word=32 // bits, bits=bits)
        codes = np.empty_like(fields).reshape(len(fields), -1, 32 // bits)
        codes[..., _ORDER[bits]] = fields.reshape(codes.shape)
        value_of = np.zeros(MANY, self.values.dtype)
        value_of[self.codes] = self.values
        rows, columns = self.shape
        return value_of[codes.reshape(fields.shape)[:rows, :columns]]

    @property
    def code_bits(self) -> int:
        """Bits of an element: 4 or 8."""
        return even_bits(self.codes)

    def _array_sizes(self) -> tuple[tuple[str, int, int], ...]:
        return (("codes", self.shape[0] * self.shape[1], self.code_bits),)

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(len(self.words) * LANES, np.float32)
        multiply(x, out, *self._operands)
        return out[: self.shape[0]]

    def _products(self, x: NDArray[Any]) -> NDArray[Any]:
        if not uses_blas(self.shape, x.shape[1]):
            return super()._products(x)
        decode = partial(DECODERS[self.code_bits], self.first, self.step)
        return multiply_decoded(decode, self.words, 32 // self.code_bits, x, self.shape)

    @cached_property
    def _operands(self) -> tuple[Any, ...]:
        """What every product reads beside x."""
        return self.words, self.code_bits, self.first, self.step


def uses_blas(shape: tuple[int, int], batch: int) -> bool:
    """Whether a batch is multiplied by BLAS: integers are faster where a call is worth its cost."""
    return batch >= BATCHED and shape[0] * shape[1] < _SMALL


def even_bits(codes: NDArray[np.uint8]) -> int:
    """Bits of a code, by the farthest place on the grid that has a value."""
    return 4 if codes.max() <= 15 else 8


def even_codes(
    values: NDArray[np.float32], *, most: int
) -> tuple[float, float, NDArray[np.uint8]] | None:
    """First value, step, and the place of each value on an even grid; None if off it.

    No place lies beyond `most`, 255 at most.
    """
    exact = values.astype(np.float64)
    first = float(exact.min())
    gaps = np.diff(np.sort(exact))
    if not gaps.size:
        return first, 0.0, np.zeros(1, np.uint8)
    places = np.rint((exact - first) / gaps.min())
    last = places.max()
    if last > most:
        return None
    step = (float(exact.max()) - first) / last
    # Values that were rounded to float32 lie on the grid to its precision.
    off = np.abs(first + places * step - exact).max()
    return (first, step, places.astype(np.uint8)) if off <= 2.0**-22 * np.abs(exact).max() else None
