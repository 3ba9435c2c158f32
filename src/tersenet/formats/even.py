"""Sixteen evenly spaced values, multiplied in integers: four bits an element, dense.

x is written as three signed bytes an element, 24 bits of fixed point with one scale, and every
byte is multiplied with the codes by the processor's 8-bit dot product: a 64-byte line of 128
codes takes nine instructions. The sums are integers, so they are exact and do not depend on
their order; what is rounded is x, once, to 6e-8 of its largest element.
"""

from dataclasses import dataclass
from typing import Any, Final, final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError
from tersenet.formats.accounting import StoredArray
from tersenet.formats.fast import FastMatrix, checked_values, padded_codes
from tersenet.formats.levels import Levels, value_bits
from tersenet.formats.packed import pack_fields, unpack_fields
from tersenet.formats.simd import (
    AHEAD,
    LANES,
    broadcast_word,
    dot_bytes,
    load_words,
    low_nibbles,
    no_words,
    prefetch,
    shifted,
    store_words,
)

__all__ = ["Even", "even_codes"]

_COLUMNS: Final = 8
"""Columns in a word: bytes hold columns 0 to 3 in their lower half and 4 to 7 in their upper."""
_ORDER: Final = (0, 4, 1, 5, 2, 6, 3, 7)
"""Column of each nibble of a word, from the lowest."""
_MOST_COLUMNS: Final = 1 << 20
"""Beyond, sums of 15 · 128 a column could leave 32 bits."""


@final
@dataclass(frozen=True, eq=False)
class Even(FastMatrix):
    """Up to 16 values first + k · step, each as its k."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    """The distinct values, by falling frequency."""
    codes: NDArray[np.uint8]
    """The k of each value."""
    first: float
    step: float
    words: NDArray[np.uint32]
    """(slab, group of eight columns, row in slab)."""

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Even":
        """Packs the place of each value on the grid.

        Raises:
            FormatError: Values that are not on an even grid of 16 or that float32 cannot hold,
                or more than 1,048,576 columns.
        """
        levels = Levels.of(matrix)
        grid = even_codes(checked_values(levels, limit=16, format_name="Even"))
        if grid is None:
            raise FormatError(
                "Even holds values of one even grid of 16 and this matrix has others: use Packed."
            )
        if levels.shape[1] > _MOST_COLUMNS:
            raise FormatError(
                f"Even sums up to {_MOST_COLUMNS} columns and the matrix has"
                f" {levels.shape[1]}: use Packed, or split it."
            )
        first, step, codes = grid
        fields = padded_codes(codes[levels.ranks], rows=2 * LANES, columns=_COLUMNS)
        ordered = fields.reshape(len(fields), -1, _COLUMNS)[..., _ORDER]
        return cls(
            shape=levels.shape,
            dtype=levels.values.dtype,
            values=levels.values,
            codes=codes,
            first=first,
            step=step,
            words=pack_fields(ordered.reshape(fields.shape), per_word=_COLUMNS, bits=4),
        )

    def dense(self) -> NDArray[Any]:
        """The matrix again."""
        fields = unpack_fields(self.words, per_word=_COLUMNS, bits=4)
        codes = np.empty_like(fields).reshape(len(fields), -1, _COLUMNS)
        codes[..., _ORDER] = fields.reshape(codes.shape)
        value_of = np.zeros(16, self.values.dtype)
        value_of[self.codes] = self.values
        rows, columns = self.shape
        return value_of[codes.reshape(fields.shape)[:rows, :columns]]

    def arrays(self) -> tuple[StoredArray, ...]:
        """The values, and four bits per element."""
        rows, columns = self.shape
        return (
            StoredArray(name="Ω", entries=len(self.values), bits_each=value_bits(self.values)),
            StoredArray(name="codes", entries=rows * columns, bits_each=4),
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of the words."""
        return self.words.nbytes

    @property
    def stream_bytes(self) -> int:
        """Bytes of the words."""
        return self.words.nbytes

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        planes = np.zeros((3, self.words.shape[1] * _COLUMNS), np.int8)
        unit, total = _to_bytes(x, planes)
        out = np.empty(len(self.words) * LANES, np.float32)
        low, middle, high = planes.view(np.uint32)
        _product(self.words, low, middle, high, unit * self.step, total * self.first, out)
        return out[: self.shape[0]]


def even_codes(values: NDArray[np.float32]) -> tuple[float, float, NDArray[np.uint8]] | None:
    """First value, step, and the place of each value on an even grid of 16; None if off it."""
    exact = values.astype(np.float64)
    first = float(exact.min())
    gaps = np.diff(np.sort(exact))
    if not gaps.size:
        return first, 0.0, np.zeros(1, np.uint8)
    places = np.rint((exact - first) / gaps.min())
    last = places.max()
    if last > 15:
        return None
    step = (float(exact.max()) - first) / last
    # Values that were rounded to float32 lie on the grid to its precision.
    off = np.abs(first + places * step - exact).max()
    return (first, step, places.astype(np.uint8)) if off <= 2.0**-22 * np.abs(exact).max() else None


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _to_bytes(x, planes):
    """Writes x as three signed bytes; returns what one unit of the last is worth, and Σx."""
    largest, total = np.float32(0), 0.0
    for at in range(len(x)):
        largest = max(largest, abs(x[at]))
    unit = np.float64(largest) / 8323072  # 127 · 2**16: the top byte stays in range
    scale = 1 / unit if largest > 0 else 0.0
    for at in range(len(x)):
        whole = np.int32(np.rint(x[at] * scale))
        total += whole
        middle = (whole + 128) >> 8
        high = (middle + 128) >> 8
        planes[0, at] = whole - (middle << 8)
        planes[1, at] = middle - (high << 8)
        planes[2, at] = high
    return unit, total * unit


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _product(words, low, middle, high, scale, offset, out):
    """Two slabs at a time: six sums each that wait for nothing of one another."""
    flat = words.reshape(-1)
    width = words.shape[1]
    sums = np.empty((3, 16), np.int32)
    lines = sums.reshape(-1)
    for slab in range(0, words.shape[0], 2):
        a, b, c = no_words(), no_words(), no_words()
        d, e, f = no_words(), no_words(), no_words()
        at = slab * width * 16
        for group in range(width):
            prefetch(flat, at + AHEAD)
            prefetch(flat, at + width * 16 + AHEAD)
            p, q = load_words(flat, at), load_words(flat, at + width * 16)
            at += 16
            r, s = low_nibbles(shifted(p, 4)), low_nibbles(shifted(q, 4))
            p, q = low_nibbles(p), low_nibbles(q)
            x, y, z = low[2 * group], middle[2 * group], high[2 * group]
            x, y, z = broadcast_word(x), broadcast_word(y), broadcast_word(z)
            a, b, c = dot_bytes(a, p, x), dot_bytes(b, p, y), dot_bytes(c, p, z)
            d, e, f = dot_bytes(d, q, x), dot_bytes(e, q, y), dot_bytes(f, q, z)
            x, y, z = low[2 * group + 1], middle[2 * group + 1], high[2 * group + 1]
            x, y, z = broadcast_word(x), broadcast_word(y), broadcast_word(z)
            a, b, c = dot_bytes(a, r, x), dot_bytes(b, r, y), dot_bytes(c, r, z)
            d, e, f = dot_bytes(d, s, x), dot_bytes(e, s, y), dot_bytes(f, s, z)
        for half in range(2):
            store_words(lines, 0, d if half else a)
            store_words(lines, 16, e if half else b)
            store_words(lines, 32, f if half else c)
            for lane in range(16):
                total = sums[0, lane] + 256.0 * sums[1, lane] + 65536.0 * sums[2, lane]
                out[(slab + half) * 16 + lane] = total * scale + offset
