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

from tersenet.formats.accounting import StoredArray
from tersenet.formats.fast.base import (
    MANY,
    FastMatrix,
    checked_values,
    code_bits,
    padded,
    padded_codes,
    slabs,
    table,
)
from tersenet.formats.lanes import (
    AHEAD,
    LANES,
    add,
    broadcast,
    gather,
    load_floats,
    load_words,
    lookup16,
    lookup32,
    low_bytes,
    multiply_add,
    prefetch,
    shifted,
    store_floats,
    zeros,
)
from tersenet.formats.levels import Levels, value_bits

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
        values = checked_values(levels, limit=MANY, format_name="Packed")
        bits = packed_bits(len(values))
        per_word = _PER_WORD[bits]
        codes = padded_codes(levels.ranks, rows=LANES, columns=per_word)
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
        return self.values[self._codes()]

    def arrays(self) -> tuple[StoredArray, ...]:
        """The values and one code per element."""
        rows, columns = self.shape
        return (
            StoredArray(name="Ω", entries=len(self.values), bits_each=value_bits(self.values)),
            StoredArray(name="codes", entries=rows * columns, bits_each=self.code_bits),
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of words and table."""
        return self.words.nbytes + self.table.nbytes

    @property
    def stream_bytes(self) -> int:
        """Bytes of the words."""
        return self.words.nbytes

    def _codes(self, first: int = 0, last: int | None = None) -> NDArray[np.uint8]:
        """Codes of the slabs from first to last, without the padding."""
        codes = unpack_fields(
            self.words[first:last], per_word=_PER_WORD[self.code_bits], bits=self.code_bits
        )
        return codes[: self.shape[0] - first * LANES, : self.shape[1]]

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(len(self.words) * LANES, np.float32)
        vector = padded(x, _PER_WORD[self.code_bits])
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


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _product4(words, table, x, out):
    entries = load_floats(table, 0)
    lines = words.reshape(-1)
    at = 0
    for slab in range(words.shape[0]):
        a, b, c, d = zeros(), zeros(), zeros(), zeros()
        for j in range(0, 8 * words.shape[1], 8):
            prefetch(lines, at + AHEAD)
            w = load_words(lines, at)
            at += 16
            a = multiply_add(lookup16(entries, w), broadcast(x[j]), a)
            b = multiply_add(lookup16(entries, shifted(w, 4)), broadcast(x[j + 1]), b)
            c = multiply_add(lookup16(entries, shifted(w, 8)), broadcast(x[j + 2]), c)
            d = multiply_add(lookup16(entries, shifted(w, 12)), broadcast(x[j + 3]), d)
            a = multiply_add(lookup16(entries, shifted(w, 16)), broadcast(x[j + 4]), a)
            b = multiply_add(lookup16(entries, shifted(w, 20)), broadcast(x[j + 5]), b)
            c = multiply_add(lookup16(entries, shifted(w, 24)), broadcast(x[j + 6]), c)
            d = multiply_add(lookup16(entries, shifted(w, 28)), broadcast(x[j + 7]), d)
        store_floats(out, slab * 16, add(add(a, b), add(c, d)))


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _product5(words, table, x, out):
    low, high = load_floats(table, 0), load_floats(table, 16)
    lines = words.reshape(-1)
    at = 0
    for slab in range(words.shape[0]):
        a, b, c = zeros(), zeros(), zeros()
        for j in range(0, 6 * words.shape[1], 6):
            prefetch(lines, at + AHEAD)
            w = load_words(lines, at)
            at += 16
            a = multiply_add(lookup32(low, high, w), broadcast(x[j]), a)
            b = multiply_add(lookup32(low, high, shifted(w, 5)), broadcast(x[j + 1]), b)
            c = multiply_add(lookup32(low, high, shifted(w, 10)), broadcast(x[j + 2]), c)
            a = multiply_add(lookup32(low, high, shifted(w, 15)), broadcast(x[j + 3]), a)
            b = multiply_add(lookup32(low, high, shifted(w, 20)), broadcast(x[j + 4]), b)
            c = multiply_add(lookup32(low, high, shifted(w, 25)), broadcast(x[j + 5]), c)
        store_floats(out, slab * 16, add(add(a, b), c))


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _product8(words, table, x, out):
    lines = words.reshape(-1)
    at = 0
    for slab in range(words.shape[0]):
        a, b = zeros(), zeros()
        for j in range(0, 4 * words.shape[1], 4):
            prefetch(lines, at + AHEAD)
            w = load_words(lines, at)
            at += 16
            a = multiply_add(gather(table, low_bytes(w)), broadcast(x[j]), a)
            b = multiply_add(gather(table, low_bytes(shifted(w, 8))), broadcast(x[j + 1]), b)
            a = multiply_add(gather(table, low_bytes(shifted(w, 16))), broadcast(x[j + 2]), a)
            b = multiply_add(gather(table, shifted(w, 24)), broadcast(x[j + 3]), b)
        store_floats(out, slab * 16, add(a, b))


_PRODUCTS: Final = {4: _product4, 5: _product5, 8: _product8}


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _decode4(table, words, out):
    t = load_floats(table, 0)
    lines, values, height = words.reshape(-1), out.reshape(-1), out.shape[1]
    at = 0
    for slab in range(words.shape[0]):
        place = slab * 16
        for _ in range(words.shape[1]):
            w = load_words(lines, at)
            at += 16
            for _ in range(8):
                store_floats(values, place, lookup16(t, w))
                w = shifted(w, 4)
                place += height


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _decode5(table, words, out):
    t, u = load_floats(table, 0), load_floats(table, 16)
    lines, values, height = words.reshape(-1), out.reshape(-1), out.shape[1]
    at = 0
    for slab in range(words.shape[0]):
        place = slab * 16
        for _ in range(words.shape[1]):
            w = load_words(lines, at)
            at += 16
            for _ in range(6):
                store_floats(values, place, lookup32(t, u, w))
                w = shifted(w, 5)
                place += height


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _decode8(table, words, out):
    lines, values, height = words.reshape(-1), out.reshape(-1), out.shape[1]
    at = 0
    for slab in range(words.shape[0]):
        place = slab * 16
        for _ in range(words.shape[1]):
            w = load_words(lines, at)
            at += 16
            for _ in range(4):
                store_floats(values, place, gather(table, low_bytes(w)))
                w = shifted(w, 8)
                place += height


_DECODERS: Final = {4: _decode4, 5: _decode5, 8: _decode8}
