"""Several columns in one look-up: for matrices of two to five values, binary and ternary.

With few values, the possible sums of a few neighbouring columns fit a register: 2 values and 4
columns, 4 values and 2 columns give 16 sums; 3 values and 3 columns give 27, 5 values and 2
columns give 25, of 32. They are worked out once per product from x and then serve all rows: an
in-register look-up and an addition per group, no multiplication. Look-up tables for products
with few-bit weights are T-MAC's idea (Wei et al., "T-MAC: CPU Renaissance via Table Lookup for
Low-Bit LLM Deployment on Edge", 2024, arXiv:2407.00088); here the tables hold float32 sums, so
nothing is rounded, and number systems other than two let ternary take 1.78 bits an element.
"""

from dataclasses import dataclass
from typing import Any, Final, final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.formats.fast.base import FastMatrix, float32_values, pad, pad_codes
from tersenet.formats.fast.packed import pack_fields, unpack_fields
from tersenet.formats.lanes import (
    AHEAD,
    LANES,
    add,
    load_floats,
    load_words,
    prefetch,
    shift_right,
    store_floats,
    value_of,
    zeros,
)
from tersenet.formats.levels import Levels

__all__ = ["Grouped", "group_sums"]

_COLUMNS: Final = {1: 4, 2: 4, 3: 3, 4: 2, 5: 2}
"""Columns in a group, by the number of values."""
_ABREAST: Final = 4
"""Slabs that share a loaded table: their sums and the table stay in registers."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Grouped(FastMatrix):
    """Up to 5 values: 1 bit an element for two, 1.78 for three, 2 for four, 2.67 for five."""

    stream = ("words",)
    beside = ("sums",)

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    words: NDArray[np.uint32]
    """(four slabs, word, slab of the four, row in slab)."""
    sums: NDArray[np.float32]
    """(column of a group, code of the group): which value that column has."""

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Grouped":
        """Packs groups of columns by the number of values.

        Raises:
            FormatError: More than 5 values, or values that float32 cannot hold.
        """
        levels = Levels.of(matrix)
        values = float32_values(levels, limit=5, format_name="Grouped")
        kinds, columns = len(values), _COLUMNS[len(values)]
        bits, per_word = _fields(kinds)
        weights = kinds ** np.arange(columns)
        codes = pad_codes(levels.ranks, rows=_ABREAST * LANES, columns=columns * per_word).reshape(
            -1, columns
        )
        group_codes = (codes @ weights.astype(np.uint8)).astype(np.uint8)
        rows = -(-levels.shape[0] // (_ABREAST * LANES)) * _ABREAST * LANES
        words = pack_fields(group_codes.reshape(rows, -1), per_word=per_word, bits=bits)
        abreast = words.reshape(-1, _ABREAST, words.shape[1], LANES).transpose(0, 2, 1, 3)
        return cls(
            shape=levels.shape,
            dtype=levels.values.dtype,
            values=levels.values,
            words=np.ascontiguousarray(abreast),
            sums=group_sums(values),
        )

    def dense(self) -> NDArray[Any]:
        """The matrix again."""
        kinds = len(self.values)
        bits, per_word = _fields(kinds)
        slabs = self.words.transpose(0, 2, 1, 3).reshape(-1, self.words.shape[1], LANES)
        groups = unpack_fields(slabs, per_word=per_word, bits=bits)[: self.shape[0]]
        weights = kinds ** np.arange(_COLUMNS[kinds])
        codes = groups[..., None] // weights.astype(np.uint8) % np.uint8(kinds)
        return self.values[codes.reshape(len(groups), -1)[:, : self.shape[1]]]

    def _array_sizes(self) -> tuple[tuple[str, int, int], ...]:
        return (("words", self.words.size, 32),)

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        bits, per_word = _fields(len(self.values))
        vector = pad(x, len(self.sums) * per_word)
        tables = vector.reshape(-1, len(self.sums)) @ self.sums
        out = np.empty(self.words.shape[0] * _ABREAST * LANES, np.float32)
        _PRODUCTS[bits](self.words, tables, out)
        return out[: self.shape[0]]


def group_sums(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(column of a group, code of the group): which value that column has."""
    kinds, columns = len(values), _COLUMNS[len(values)]
    digits = np.arange(kinds**columns) // kinds ** np.arange(columns)[:, None] % kinds
    sums = np.zeros((columns, 1 << _fields(kinds)[0]), np.float32)
    sums[:, : kinds**columns] = values[digits]
    return sums


def _fields(kinds: int) -> tuple[int, int]:
    """Bits of a group's code, and groups in a word, by the number of values."""
    return (4, 8) if kinds ** _COLUMNS[kinds] <= 16 else (5, 6)


def _product(bits: int) -> Any:
    """The kernel for groups whose code has so many bits, compiled for these."""
    fields, size = 32 // bits, 1 << bits

    @njit(cache=True, nogil=True, error_model="numpy")
    @no_type_check
    def look_up(words, tables, out):
        flat, entries = words.reshape(-1), tables.reshape(-1)
        at = 0
        for four in range(words.shape[0]):
            a, b, c, d = zeros(), zeros(), zeros(), zeros()
            for first in range(0, fields * size * words.shape[1], fields * size):
                for line in range(0, 64, 16):
                    prefetch(flat, at + line + AHEAD)
                p, q = load_words(flat, at), load_words(flat, at + 16)
                r, s = load_words(flat, at + 32), load_words(flat, at + 48)
                at += 64
                for field in range(fields):
                    t = load_floats(entries, first + size * field)
                    u = load_floats(entries, first + size * field + size - 16)
                    a = add(a, value_of(entries, t, u, p, bits))
                    b = add(b, value_of(entries, t, u, q, bits))
                    c = add(c, value_of(entries, t, u, r, bits))
                    d = add(d, value_of(entries, t, u, s, bits))
                    p, q = shift_right(p, bits), shift_right(q, bits)
                    r, s = shift_right(r, bits), shift_right(s, bits)
            start = four * 64
            store_floats(out, start, a)
            store_floats(out, start + 16, b)
            store_floats(out, start + 32, c)
            store_floats(out, start + 48, d)

    return look_up


_PRODUCTS: Final = {bits: _product(bits) for bits in (4, 5)}
