"""Dense codes of 4 or 5 bits, decoded by a table in a register: for matrices with few zeros.

A slab of sixteen rows is stored column by column: lane r of a 64-byte line holds the codes of
row r for 8 (4 bits) or 6 (5 bits) consecutive columns. One shift, one in-register look-up and
one multiply-add decode and multiply sixteen elements, whatever the values are: they need not be
evenly spaced. Beyond 32 values codes take 8 bits and the look-up goes to memory: small, but no
faster than float32 for a single vector.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.formats.fast.base import (
    MANY,
    FastMatrix,
    code_bits,
    float32_values,
    pad,
    pad_codes,
    slabs,
    table,
)
from tersenet.formats.lanes import (
    AHEAD,
    LANES,
    add,
    broadcast,
    load_floats,
    load_words,
    multiply_add,
    prefetch,
    shift_right,
    store_floats,
    value_of,
    zeros,
)
from tersenet.formats.levels import Levels

__all__ = ["BATCHED", "Packed", "multiply_decoded", "pack_fields", "packed_bits", "unpack_fields"]

_PER_WORD: Final = {4: 8, 5: 6, 8: 4}
"""Codes in a 32-bit word, by their bits."""
BATCHED: Final = 8
"""Samples from which it pays to decode all weights."""
_PANEL_BYTES: Final = 1 << 20
"""Decoded weights that a batch works on at once: half of a usual second-level cache."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Packed(FastMatrix):
    """Every element as a code of 4 bits (up to 16 values), 5 (up to 32) or 8 (up to 256)."""

    stream = ("words",)
    beside = ("table",)

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    code_bits: int
    words: NDArray[np.uint32]
    """(slab, group of columns, row in slab)."""
    table: NDArray[np.float32]

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Packed":
        """Packs codes by the number of values.

        Raises:
            FormatError: More than 256 values, or values that float32 cannot hold.
        """
        levels = Levels.of(matrix)
        values = float32_values(levels, limit=MANY, format_name="Packed")
        bits = packed_bits(len(values))
        per_word = _PER_WORD[bits]
        codes = pad_codes(levels.ranks, rows=LANES, columns=per_word)
        return cls(
            shape=levels.shape,
            dtype=levels.values.dtype,
            values=levels.values,
            code_bits=bits,
            words=pack_fields(codes, per_word=per_word, bits=bits),
            table=table(values),
        )

    def dense(self) -> NDArray[Any]:
        """The matrix again."""
        bits, (rows, columns) = self.code_bits, self.shape
        codes = unpack_fields(self.words, per_word=_PER_WORD[bits], bits=bits)
        return self.values[codes[:rows, :columns]]

    def _array_sizes(self) -> tuple[tuple[str, int, int], ...]:
        return (("codes", self.shape[0] * self.shape[1], self.code_bits),)

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(len(self.words) * LANES, np.float32)
        vector = pad(x, _PER_WORD[self.code_bits])
        _PRODUCTS[self.code_bits](self.words, self.table, vector, out)
        return out[: self.shape[0]]

    def _products(self, x: NDArray[Any]) -> NDArray[Any]:
        if x.shape[1] < BATCHED:
            return super()._products(x)
        decode = partial(_DECODERS[self.code_bits], self.table)
        return multiply_decoded(decode, self.words, _PER_WORD[self.code_bits], x, self.shape)


def multiply_decoded(
    decode: Callable[[NDArray[np.uint32], NDArray[np.float32]], None],
    words: NDArray[np.uint32],
    per_word: int,
    x: NDArray[np.float32],
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Weights that are decoded once serve the whole batch: some slabs at a time, through BLAS.

    `decode` writes the values of some slabs to (column, row).
    """
    out = np.empty((shape[0], x.shape[1]), np.float32)
    width = words.shape[1] * per_word
    step = max(1, _PANEL_BYTES // (4 * LANES * width))
    panel = np.empty((width, step * LANES), np.float32)
    for first in range(0, slabs(shape[0]), step):
        some = words[first : first + step]
        start = first * LANES
        rows = min(len(some) * LANES, shape[0] - start)
        decode(some, panel)
        np.matmul(panel[: shape[1], :rows].T, x, out=out[start : start + rows])
    return out


def packed_bits(kinds: int) -> int:
    """Bits of a code, by the number of values."""
    return 4 if kinds <= 16 else code_bits(kinds)


def pack_fields(codes: NDArray[np.uint8], *, per_word: int, bits: int) -> NDArray[np.uint32]:
    """(row, field) codes as words (slab, group of fields, lane): field k in bits k * bits on."""
    grouped = codes.reshape(codes.shape[0] // LANES, LANES, -1, per_word)
    words = np.zeros(grouped.shape[:3], np.uint32)
    for field in range(per_word):
        words |= grouped[..., field].astype(np.uint32) << np.uint32(bits * field)
    return np.ascontiguousarray(words.transpose(0, 2, 1))


def unpack_fields(words: NDArray[np.uint32], *, per_word: int, bits: int) -> NDArray[np.uint8]:
    """The inverse of `pack_fields`."""
    out = np.empty((words.shape[0], LANES, words.shape[1], per_word), np.uint8)
    for field in range(per_word):
        fields = (words >> np.uint32(bits * field)) & np.uint32((1 << bits) - 1)
        out[..., field] = fields.transpose(0, 2, 1)
    return out.reshape(words.shape[0] * LANES, -1)


def _product(bits: int) -> Any:
    """The kernel for codes of so many bits, compiled for these: sums of half a word's fields."""
    fields, sums = _PER_WORD[bits], _PER_WORD[bits] // 2

    @njit(cache=True, nogil=True, error_model="numpy")
    @no_type_check
    def multiply(words, table, x, out):
        low, high = load_floats(table, 0), load_floats(table, 16)
        lines = words.reshape(-1)
        at = 0
        for slab in range(words.shape[0]):
            a, b, c, d = zeros(), zeros(), zeros(), zeros()
            for j in range(0, fields * words.shape[1], fields):
                prefetch(lines, at + AHEAD)
                w = load_words(lines, at)
                at += 16
                v, k = shift_right(w, sums * bits), j + sums
                a = multiply_add(value_of(table, low, high, w, bits), broadcast(x[j]), a)
                w = shift_right(w, bits)
                b = multiply_add(value_of(table, low, high, w, bits), broadcast(x[j + 1]), b)
                w = shift_right(w, bits)
                if sums > 2:
                    c = multiply_add(value_of(table, low, high, w, bits), broadcast(x[j + 2]), c)
                w = shift_right(w, bits)
                if sums > 3:
                    d = multiply_add(value_of(table, low, high, w, bits), broadcast(x[j + 3]), d)
                a = multiply_add(value_of(table, low, high, v, bits), broadcast(x[k]), a)
                v = shift_right(v, bits)
                b = multiply_add(value_of(table, low, high, v, bits), broadcast(x[k + 1]), b)
                v = shift_right(v, bits)
                if sums > 2:
                    c = multiply_add(value_of(table, low, high, v, bits), broadcast(x[k + 2]), c)
                v = shift_right(v, bits)
                if sums > 3:
                    d = multiply_add(value_of(table, low, high, v, bits), broadcast(x[k + 3]), d)
            total = add(a, b)
            if sums == 3:
                total = add(total, c)
            if sums == 4:
                total = add(total, add(c, d))
            store_floats(out, slab * 16, total)

    return multiply


def _decoder(bits: int) -> Any:
    """The kernel that writes the values of some slabs to (column, row)."""
    fields = _PER_WORD[bits]

    @njit(cache=True, nogil=True, error_model="numpy")
    @no_type_check
    def decode(table, words, out):
        low, high = load_floats(table, 0), load_floats(table, 16)
        lines, values, height = words.reshape(-1), out.reshape(-1), out.shape[1]
        at = 0
        for slab in range(words.shape[0]):
            place = slab * 16
            for _ in range(words.shape[1]):
                w = load_words(lines, at)
                at += 16
                for _ in range(fields):
                    store_floats(values, place, value_of(table, low, high, w, bits))
                    w = shift_right(w, bits)
                    place += height

    return decode


_PRODUCTS: Final = {bits: _product(bits) for bits in _PER_WORD}
_DECODERS: Final = {bits: _decoder(bits) for bits in _PER_WORD}
