"""Evenly spaced values, multiplied in integers: four bits an element or eight, dense.

x is written as three signed bytes an element, 24 bits of fixed point with one scale, and every
byte is multiplied with the codes by the processor's 8-bit dot product: a 64-byte line of 128
codes of four bits takes nine instructions, one of 64 codes of eight bits three. The sums are
integers, so they are exact and do not depend on their order; what is rounded is x, once, to 6e-8
of its largest element.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError
from tersenet.formats.accounting import StoredArray
from tersenet.formats.fast import MANY, FastMatrix, checked_values, padded_codes
from tersenet.formats.levels import Levels, value_bits
from tersenet.formats.packed import BATCHED, multiply_decoded, pack_fields, unpack_fields
from tersenet.formats.simd import (
    AHEAD,
    LANES,
    broadcast,
    broadcast_word,
    dot_bytes,
    load_words,
    low_bytes,
    low_nibbles,
    multiply_add,
    no_words,
    prefetch,
    shifted,
    signed_field,
    store_floats,
    store_words,
)

__all__ = ["Even", "decoded", "even_bits", "even_codes"]

_SMALL: Final = 1 << 18
"""Elements below which a product with one vector takes little more than its call."""
_ORDER: Final = {4: (0, 4, 1, 5, 2, 6, 3, 7), 8: (0, 1, 2, 3)}
"""Column of each code of a word from the lowest, by the bits of a code: of eight columns, bytes
hold 0 to 3 in their lower half and 4 to 7 in their upper."""
_MOST_COLUMNS: Final = {4: 1 << 20, 8: 1 << 16}
"""Beyond, sums of 15 · 128 or 255 · 128 a column could leave 32 bits."""


@final
@dataclass(frozen=True, eq=False)
class Even(FastMatrix):
    """Up to 256 values first + k · step, each as its k: 4 bits up to k = 15, else 8."""

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
        values = checked_values(levels, limit=MANY, format_name="Even")
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
        fields = padded_codes(codes[levels.ranks], rows=2 * LANES, columns=together)
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

    def arrays(self) -> tuple[StoredArray, ...]:
        """The values, and a code per element."""
        rows, columns = self.shape
        return (
            StoredArray(name="Ω", entries=len(self.values), bits_each=value_bits(self.values)),
            StoredArray(name="codes", entries=rows * columns, bits_each=self.code_bits),
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
        out = np.empty(len(self.words) * LANES, np.float32)
        _product(x, out, *self._operands)
        return out[: self.shape[0]]

    def _products(self, x: NDArray[Any]) -> NDArray[Any]:
        if not decoded(self.shape, x.shape[1]):
            return super()._products(x)
        decode = partial(_DECODERS[self.code_bits], self.first, self.step)
        return multiply_decoded(decode, self.words, 32 // self.code_bits, x, self.shape)

    @cached_property
    def _operands(self) -> tuple[Any, ...]:
        """What every product reads beside x."""
        return self.words, self.code_bits, self.first, self.step


def decoded(shape: tuple[int, int], batch: int) -> bool:
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
def _product(x, out, words, bits, first, step):
    planes = np.zeros((3, words.shape[1] * (32 // bits)), np.int8)
    unit, total = _to_bytes(x, planes)
    low = planes[0].view(np.uint32)
    middle, high = planes[1].view(np.uint32), planes[2].view(np.uint32)
    if bits == 4:
        _product4(words, low, middle, high, unit * step, total * first, out)
    else:
        _product8(words, low, middle, high, unit * step, total * first, out)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _product4(words, low, middle, high, scale, offset, out):
    """Two slabs at a time: six sums each that wait for nothing of one another."""
    flat = words.reshape(-1)
    width = words.shape[1]
    lines = np.empty(48, np.int32)
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
        _join(lines, a, b, c, scale, offset, out, slab * 16)
        _join(lines, d, e, f, scale, offset, out, slab * 16 + 16)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _product8(words, low, middle, high, scale, offset, out):
    """The same with a code in each byte."""
    flat = words.reshape(-1)
    width = words.shape[1]
    lines = np.empty(48, np.int32)
    for slab in range(0, words.shape[0], 2):
        a, b, c = no_words(), no_words(), no_words()
        d, e, f = no_words(), no_words(), no_words()
        at = slab * width * 16
        for group in range(width):
            prefetch(flat, at + AHEAD)
            prefetch(flat, at + width * 16 + AHEAD)
            p, q = load_words(flat, at), load_words(flat, at + width * 16)
            at += 16
            x, y, z = low[group], middle[group], high[group]
            x, y, z = broadcast_word(x), broadcast_word(y), broadcast_word(z)
            a, b, c = dot_bytes(a, p, x), dot_bytes(b, p, y), dot_bytes(c, p, z)
            d, e, f = dot_bytes(d, q, x), dot_bytes(e, q, y), dot_bytes(f, q, z)
        _join(lines, a, b, c, scale, offset, out, slab * 16)
        _join(lines, d, e, f, scale, offset, out, slab * 16 + 16)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _join(lines, low, middle, high, scale, offset, out, first):
    """Sums of the three bytes as one, sixteen rows of them."""
    store_words(lines, 0, low)
    store_words(lines, 16, middle)
    store_words(lines, 32, high)
    for lane in range(16):
        total = lines[lane] + 256.0 * lines[16 + lane] + 65536.0 * lines[32 + lane]
        out[first + lane] = total * scale + offset


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _decode4(first, step, words, out):
    """Writes first + k · step to (column, row), by the order of columns in a word."""
    a, b = broadcast(np.float32(first)), broadcast(np.float32(step))
    lines, values, height = words.reshape(-1), out.reshape(-1), out.shape[1]
    at = 0
    for slab in range(words.shape[0]):
        for group in range(words.shape[1]):
            w = load_words(lines, at)
            at += 16
            u, place = shifted(w, 4), slab * 16 + group * 8 * height
            w, u = low_nibbles(w), low_nibbles(u)
            for _ in range(4):
                store_floats(values, place, multiply_add(signed_field(w, 0, 5), b, a))
                store_floats(values, place + 4 * height, multiply_add(signed_field(u, 0, 5), b, a))
                w, u = shifted(w, 8), shifted(u, 8)
                place += height


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _decode8(first, step, words, out):
    """The same with a code in each byte."""
    a, b = broadcast(np.float32(first)), broadcast(np.float32(step))
    lines, values, height = words.reshape(-1), out.reshape(-1), out.shape[1]
    at = 0
    for slab in range(words.shape[0]):
        place = slab * 16
        for _ in range(words.shape[1]):
            w = load_words(lines, at)
            at += 16
            for _ in range(4):
                k = signed_field(low_bytes(w), 0, 9)
                store_floats(values, place, multiply_add(k, b, a))
                w = shifted(w, 8)
                place += height


_DECODERS: Final = {4: _decode4, 8: _decode8}
