"""Sixteen rows abreast, each a list of steps to its next element: for very sparse matrices.

Sliced ELLPACK (Monakov, Lokhmotov, Avetisyan, HiPEAC 2010) with the columns as differences and
the values as codes: an entry is 16 bits, 11 of distance and 5 of code, or 8 and 8 where there are
more than 32 values. Rows are sorted by their
number of entries, so that the sixteen rows of a slab are of almost equal length. As in CER the
most frequent value is not stored and is added back as ω0 · Σx.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError
from tersenet.formats.fast.base import MANY, FastMatrix, code_bits, float32_values, slabs, table
from tersenet.formats.lanes import (
    AHEAD,
    LANES,
    add,
    broadcast,
    gather,
    load_floats,
    load_halves,
    load_words,
    multiply_add,
    no_words,
    plus,
    prefetch,
    shift_right,
    store_floats,
    value_of,
    zeros,
)
from tersenet.formats.levels import Levels

__all__ = [
    "Sliced",
    "omitted_sum",
    "order_of",
    "places_of",
    "put_sliced",
    "slice_rows",
    "sum_sliced",
]


_MOST_COLUMNS: Final = (1 << 31) - 1
"""A gather's indices are signed."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Sliced(FastMatrix):
    """Up to 256 values, 16 bits per stored element, one gather per sixteen of them."""

    stream = ("entries_",)
    beside = ("starts", "places", "table")

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    """The distinct values; the first is the omitted one."""
    entries_: NDArray[np.uint16]
    """(step, row in slab), slab after slab."""
    starts: NDArray[np.int64]
    """First step of each slab, and the last one's end."""
    places: NDArray[np.uint32]
    """Where each row of the matrix lies in the slabs, in whole slabs."""
    table: NDArray[np.float32]
    """The values less the omitted one, by code."""

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Sliced":
        """Stores all but the most frequent value.

        Raises:
            FormatError: More than 256 values, values that float32 cannot hold, or more than
                2,147,483,647 columns.
        """
        levels = Levels.of(matrix)
        values = float32_values(levels, limit=MANY, format_name="Sliced")
        if levels.shape[1] > _MOST_COLUMNS:
            raise FormatError(
                f"Sliced counts up to {_MOST_COLUMNS} columns and the matrix has"
                f" {levels.shape[1]}: use Csr, or split it."
            )
        entries, starts, order = slice_rows(
            levels.ranks.astype(np.uint8, copy=False), bits=code_bits(len(values))
        )
        return cls(
            shape=levels.shape,
            dtype=levels.values.dtype,
            values=levels.values,
            entries_=entries,
            starts=starts,
            places=places_of(order),
            table=table(values - values[0]),
        )

    def dense(self) -> NDArray[Any]:
        """The matrix again."""
        codes = np.zeros(self.shape, np.uint8)
        order = order_of(self.places, len(codes))
        put_sliced(self.entries_, self.starts, order, codes, code_bits(len(self.values)))
        return self.values[codes]

    def _array_sizes(self) -> tuple[tuple[str, int, int], ...]:
        return (
            ("entries", self.entries_.size, 16),
            ("starts", len(self.starts), 32),
            ("places", len(self.places), 32),
        )

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(len(self.places), np.float32)
        _product(x, out, *self._operands)
        return out[: self.shape[0]]

    @cached_property
    def _operands(self) -> tuple[Any, ...]:
        """What every product reads beside x."""
        return self.entries_, self.starts, self.places, self.table, float(self.values[0])


def places_of(order: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Where each row lies, from the row that lies at each place; zeros up to whole slabs."""
    places = np.zeros(slabs(len(order)) * LANES, np.uint32)
    places[order] = np.arange(len(order))
    return places


def order_of(places: NDArray[np.uint32], rows: int) -> NDArray[np.int64]:
    """The inverse of `places_of`."""
    return np.argsort(places[:rows])


def slice_rows(
    codes: NDArray[np.uint8], *, bits: int = 5
) -> tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.int64]]:
    """Entries, starts and order of the codes of `bits` bits that are not 0.

    A gap longer than the other bits can say takes entries of value zero on the way.
    """
    lengths = _lengths(codes, bits)
    order = np.argsort(-lengths, kind="stable")
    tallest = np.zeros(-(-len(order) // LANES) * LANES, np.int64)
    tallest[: len(order)] = lengths[order]
    steps = tallest.reshape(-1, LANES).max(axis=1)
    starts = np.concatenate(([0], np.cumsum(steps + steps % 2)))  # the kernel goes by twos
    entries = np.zeros((int(starts[-1]), LANES), np.uint16)
    _fill(codes, bits, starts, order, entries)
    return entries, starts, order


@njit(cache=True, nogil=True)
@no_type_check
def _lengths(codes, bits):
    farthest = (1 << (16 - bits)) - 1
    lengths = np.zeros(codes.shape[0], np.int64)
    for row in range(codes.shape[0]):
        last = 0
        for column in range(codes.shape[1]):
            if codes[row, column] != 0:
                lengths[row] += 1 + max(0, column - last - 1) // farthest
                last = column
    return lengths


@njit(cache=True, nogil=True)
@no_type_check
def _fill(codes, bits, starts, order, entries):
    farthest = (1 << (16 - bits)) - 1
    for place in range(len(order)):
        row, lane = order[place], place % 16
        step, last = starts[place // 16], 0
        for column in range(codes.shape[1]):
            code = codes[row, column]
            if code == 0:
                continue
            gap = column - last
            while gap > farthest:
                entries[step, lane] = farthest << bits
                gap -= farthest
                step += 1
            entries[step, lane] = (gap << bits) | code
            step += 1
            last = column


@njit(cache=True, nogil=True)
@no_type_check
def put_sliced(entries, starts, order, codes, bits):
    """Writes the codes of the entries back to their places."""
    for place in range(len(order)):
        column = 0
        for step in range(starts[place // 16], starts[place // 16 + 1]):
            entry = np.int64(entries[step, place % 16])
            column += entry >> bits
            code = entry & ((1 << bits) - 1)
            if code:
                codes[order[place], column] = code


@njit(cache=True, nogil=True)
@no_type_check
def omitted_sum(value, x):
    """ω0 · Σx: what the omitted value contributes to every row."""
    total = 0.0
    if value != 0:
        for at in range(len(x)):
            total += x[at]
    return np.float32(value * total)


def _sum(bits: int) -> Any:
    """The kernel for codes of 5 bits or 8, compiled for these.

    It writes the product of the entries with x to `sums`, as the rows lie in the slabs.
    """

    @njit(cache=True, nogil=True, error_model="numpy")
    @no_type_check
    def sum_entries(entries, starts, table, x, sums):
        low, high = load_floats(table, 0), load_floats(table, 16)
        lines = entries.reshape(-1)
        for slab in range(len(starts) - 1):
            a, b, column = zeros(), zeros(), no_words()
            for step in range(starts[slab], starts[slab + 1], 2):
                prefetch(lines, step * 16 + 2 * AHEAD)
                e = load_halves(lines, step * 16)
                column = plus(column, shift_right(e, bits))
                a = multiply_add(gather(x, column), value_of(table, low, high, e, bits), a)
                e = load_halves(lines, step * 16 + 16)
                column = plus(column, shift_right(e, bits))
                b = multiply_add(gather(x, column), value_of(table, low, high, e, bits), b)
            store_floats(sums, slab * 16, add(a, b))

    return sum_entries


sum_sliced, _sum_bytes = _sum(5), _sum(8)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _product(x, out, entries, starts, places, table, omitted_value):
    sums = np.empty(len(out), np.float32)
    if len(table) == 32:
        sum_sliced(entries, starts, table, x, sums)
    else:
        _sum_bytes(entries, starts, table, x, sums)
    start = broadcast(omitted_sum(omitted_value, x))
    for first in range(0, len(out), 16):
        found = gather(sums, load_words(places, first))
        store_floats(out, first, add(found, start))
