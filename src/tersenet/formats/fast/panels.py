"""Sparse rows for a batch: each stored value is broadcast and multiplies sixteen samples.

With a batch, x has a row of samples per column of the matrix, so nothing needs gathering: the
lanes are samples. Columns go by panels of 2,048, whose piece of x stays in the second-level
cache while all rows pass; an entry is 16 bits, 11 for the column in its panel and 5 for the
value. More than 32 values take 8 bits and panels of 256 columns. As in CER the most frequent value
is not stored and is added back as ω0 · Σx.
"""

from dataclasses import dataclass
from typing import Any, Final, final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.formats.fast.base import MANY, FastMatrix, code_bits, float32_values, table
from tersenet.formats.lanes import (
    LANES,
    broadcast,
    load_floats,
    multiply_add,
    store_floats,
    zeros,
)
from tersenet.formats.levels import Levels

__all__ = ["Panels", "panel_width"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Panels(FastMatrix):
    """Up to 256 values, 16 bits per stored element, made for batches of sixteen and more."""

    stream = ("entries_", "starts")
    beside = ("table",)

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    """The distinct values; the first is the omitted one."""
    entries_: NDArray[np.uint16]
    starts: NDArray[np.int64]
    """(panel, row + 1): where each row starts in its panel."""
    table: NDArray[np.float32]

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Panels":
        """Stores all but the most frequent value.

        Raises:
            FormatError: More than 256 values, or values that float32 cannot hold.
        """
        levels = Levels.of(matrix)
        values = float32_values(levels, limit=MANY, format_name="Panels")
        bits, width = code_bits(len(values)), panel_width(len(values))
        rows, columns = levels.shape
        parts, starts, total = [], [], 0
        for first in range(0, columns, width):
            ranks = levels.ranks[:, first : first + width]
            row, column = np.nonzero(ranks)
            parts.append(((column << bits) | ranks[row, column]).astype(np.uint16))
            ends = np.cumsum(np.bincount(row, minlength=rows))
            starts.append(np.concatenate(([total], total + ends)))
            total += len(row)
        return cls(
            shape=levels.shape,
            dtype=levels.values.dtype,
            values=levels.values,
            entries_=np.concatenate(parts),
            starts=np.array(starts),
            table=table(values - values[0]),
        )

    def dense(self) -> NDArray[Any]:
        """The matrix again."""
        codes = np.zeros(self.shape, np.uint8)
        rows = np.arange(self.shape[0])
        bits, width = code_bits(len(self.values)), panel_width(len(self.values))
        for panel, starts in enumerate(self.starts):
            entries = self.entries_[starts[0] : starts[-1]]
            columns = panel * width + (entries >> bits).astype(np.int64)
            codes[np.repeat(rows, np.diff(starts)), columns] = entries & ((1 << bits) - 1)
        return self.values[codes]

    def _array_sizes(self) -> tuple[tuple[str, int, int], ...]:
        return (
            ("entries", len(self.entries_), 16),
            ("starts", self.starts.size, 64),
        )

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._products(x[:, None])[:, 0]

    def _products(self, x: NDArray[Any]) -> NDArray[Any]:
        batch = x.shape[1]
        width = -(-batch // LANES) * LANES
        if width != batch:
            x = np.pad(x, ((0, 0), (0, width - batch)))
        out = np.zeros((self.shape[0], width), np.float32)
        if self.values[0] != 0:
            out += np.float32(self.values[0]) * x.sum(axis=0, dtype=np.float32)
        bits, first = code_bits(len(self.values)), 0
        while first < width:
            wide = width - first >= 4 * LANES
            multiply = _ADD[wide]
            multiply(self.entries_, self.starts, self.table, bits, x, first, out)
            first += 4 * LANES if wide else LANES
        return out[:, :batch]


def panel_width(kinds: int) -> int:
    """Columns of a panel: what the bits beside a code can count."""
    return 1 << (16 - code_bits(kinds))


def _adder(wide: bool) -> Any:
    """The kernel that adds the products of 64 samples, or of 16, compiled for these."""

    @njit(cache=True, nogil=True, error_model="numpy")
    @no_type_check
    def add_products(entries, starts, table, bits, x, first, out):
        most, columns = (1 << bits) - 1, 1 << (16 - bits)
        samples, sums, stride = x.reshape(-1), out.reshape(-1), x.shape[1]
        for panel in range(starts.shape[0]):
            base = panel * columns * stride + first
            for row in range(starts.shape[1] - 1):
                at = row * stride + first
                a, b, c, d = load_floats(sums, at), zeros(), zeros(), zeros()
                if wide:
                    b, c = load_floats(sums, at + 16), load_floats(sums, at + 32)
                    d = load_floats(sums, at + 48)
                for place in range(starts[panel, row], starts[panel, row + 1]):
                    entry = np.intp(entries[place])
                    v = broadcast(table[entry & most])
                    j = base + (entry >> bits) * stride
                    a = multiply_add(v, load_floats(samples, j), a)
                    if wide:
                        b = multiply_add(v, load_floats(samples, j + 16), b)
                        c = multiply_add(v, load_floats(samples, j + 32), c)
                        d = multiply_add(v, load_floats(samples, j + 48), d)
                store_floats(sums, at, a)
                if wide:
                    store_floats(sums, at + 16, b)
                    store_floats(sums, at + 32, c)
                    store_floats(sums, at + 48, d)

    return add_products


_ADD: Final = {wide: _adder(wide) for wide in (False, True)}
