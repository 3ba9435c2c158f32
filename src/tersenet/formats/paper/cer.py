"""CER and CSER: rows as segments of equal value, so that a value is multiplied once a row.

Wiedemann, Müller, Samek, "Compact and Computationally Efficient Representation of Deep Neural
Networks", IEEE TNNLS 2019, arXiv:1805.10692. The names of the arrays in the accounting are the
paper's: Ω the distinct values by falling frequency, colI the columns, ΩI the value of a segment,
ΩPtr where segments start, rowPtr where a row's segments start.

The most frequent value ω0 is not stored, whatever it is. With S_k the sum of x over the columns
where a row holds ω_k, the row's product is  ω0 · Σx + Σ_k (ω_k - ω0) · S_k .
"""

import abc
from dataclasses import dataclass
from typing import Any, final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.formats.accounting import Operations, StoredArray
from tersenet.formats.levels import Levels, index_bits, value_bits
from tersenet.formats.matrix import CountedMatrix
from tersenet.formats.paper.classic import column_dtype, pointer_dtype

__all__ = ["Cer", "Cser"]


@dataclass(frozen=True, eq=False, repr=False)
class _Segmented(CountedMatrix):
    """What the two formats share: segments of columns, row by row."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    """Ω: all distinct values, by falling frequency; the first is the omitted one."""
    columns: NDArray[Any]
    """colI: the columns of every element that is not ω0, segment after segment."""
    segment_starts: NDArray[Any]
    """ΩPtr: where each segment starts in `columns`, and where the last one ends."""
    row_starts: NDArray[Any]
    """rowPtr: where each row's segments start, and where the last row's end."""

    @abc.abstractmethod
    def _segment_ranks(self) -> NDArray[np.int64]:
        """Rank of the value of each segment."""

    def dense(self) -> NDArray[Any]:
        """The matrix with every omitted value put back."""
        out = np.full(self.shape, self.values[0], self.dtype)
        per_row = np.diff(self.row_starts.astype(np.int64))
        lengths = np.diff(self.segment_starts.astype(np.int64))
        rows = np.repeat(np.repeat(np.arange(self.shape[0]), per_row), lengths)
        out[rows, self.columns] = self.values[np.repeat(self._segment_ranks(), lengths)]
        return out

    def _base_arrays(self) -> dict[str, StoredArray]:
        count, segments = len(self.columns), len(self.segment_starts) - 1
        arrays = (
            ("Ω", len(self.values), value_bits(self.values)),
            ("colI", count, index_bits(self.shape[1])),
            ("ΩPtr", segments + 1, index_bits(count + 1)),
            ("rowPtr", len(self.row_starts), index_bits(segments + 1)),
        )
        return {
            name: StoredArray(name=name, entries=entries, bits_each=bits)
            for name, entries, bits in arrays
        }

    @property
    def memory_bytes(self) -> int:
        """Bytes of the arrays in memory."""
        arrays = (self.values, self.columns, self.segment_starts, self.row_starts)
        return sum(array.nbytes for array in arrays)

    def operations(self, row: int | None = None) -> Operations:
        """Operations of one row of the product, or of all: one product per value present.

        A row of k segments loads colI and x per stored element, 2 entries of rowPtr, k + 1 of
        ΩPtr and one value per segment that is not empty. Where ω0 is not zero, Σx is summed
        once per product, multiplied once, and added to every row.
        """
        first, last = (0, self.shape[0]) if row is None else (row, row + 1)
        row_starts = self.row_starts[first : last + 1].astype(np.int64)
        segments = np.diff(row_starts)
        starts = self.segment_starts[row_starts[0] : row_starts[-1] + 1].astype(np.int64)
        full = int(np.count_nonzero(np.diff(starts)))
        per_row = self.segment_starts[row_starts].astype(np.int64)
        stored = np.diff(per_row)
        count, rows, columns = int(stored.sum()), last - first, self.shape[1]
        shifted = bool(self.values[0] != 0)
        once = shifted and row is None  # Σx is shared by the rows
        loads = {
            "Ω": full + once,
            "colI": count,
            "ΩI": full,
            "ΩPtr": int((segments + (segments > 0)).sum()),
            "rowPtr": 2 * rows,
        }
        return self._operations(
            [loads[array.name] for array in self.arrays()],
            multiplications=full + once,
            additions=int(np.maximum(stored - 1, 0).sum())
            + (int((stored > 0).sum()) if shifted else 0)
            + (columns - 1 if once else 0),
            rows=rows,
            x_loads=count + (columns if once else 0),
        )

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        return _segment_product(
            self.values.astype(x.dtype),
            self.columns,
            self._stored_ranks(),
            self.segment_starts,
            self.row_starts,
            x,
        )

    def _stored_ranks(self) -> NDArray[Any]:
        """Ranks as the kernel reads them: empty where a row's segments go by rank."""
        return np.empty(0, np.uint32)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Cer(_Segmented):
    """Compressed entropy rows: a row's segments follow the values by falling frequency.

    The rank of a segment is its place in the row, so it is not stored; a row that holds a rarer
    value without a commoner one stores an empty segment for the commoner (padding).
    """

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Cer":
        """Stores the columns of all but the most frequent value."""
        levels = Levels.of(matrix)
        rows, columns, ranks = _stored_elements(levels)
        last = np.zeros(levels.shape[0], np.int64)
        np.maximum.at(last, rows, ranks)
        row_starts = np.concatenate(([0], np.cumsum(last)))
        segment = row_starts[rows] + ranks - 1
        lengths = np.bincount(segment, minlength=int(row_starts[-1]))
        return cls(**_fields(levels, columns, lengths, row_starts))

    @property
    def padding(self) -> int:
        """Empty segments, stored for rows that skip a commoner value."""
        return int(np.count_nonzero(np.diff(self.segment_starts.astype(np.int64)) == 0))

    def arrays(self) -> tuple[StoredArray, ...]:
        """Ω, colI, ΩPtr and rowPtr of the paper."""
        return tuple(self._base_arrays().values())

    def _segment_ranks(self) -> NDArray[np.int64]:
        starts = self.row_starts.astype(np.int64)
        per_row = np.diff(starts)
        return np.arange(int(starts[-1])) - np.repeat(starts[:-1], per_row) + 1


@final
@dataclass(frozen=True, eq=False, repr=False)
class Cser(_Segmented):
    """Compressed shared elements row: a segment names its value, so none is ever empty."""

    ranks: NDArray[Any]
    """ΩI: the rank of each segment's value."""

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Cser":
        """Stores the columns of all but the most frequent value."""
        levels = Levels.of(matrix)
        rows, columns, ranks = _stored_elements(levels)
        kinds = len(levels.values)
        keys, lengths = np.unique(rows * kinds + ranks, return_counts=True)
        per_row = np.bincount(keys // kinds, minlength=levels.shape[0])
        row_starts = np.concatenate(([0], np.cumsum(per_row)))
        return cls(
            **_fields(levels, columns, lengths, row_starts),
            ranks=(keys % kinds).astype(np.uint32),
        )

    def arrays(self) -> tuple[StoredArray, ...]:
        """Ω, colI, ΩI, ΩPtr and rowPtr of the paper."""
        base = self._base_arrays()
        ranks = StoredArray(
            name="ΩI", entries=len(self.ranks), bits_each=index_bits(len(self.values))
        )
        return (base["Ω"], base["colI"], ranks, base["ΩPtr"], base["rowPtr"])

    @property
    def memory_bytes(self) -> int:
        """Bytes of the arrays in memory."""
        return super().memory_bytes + self.ranks.nbytes

    def _segment_ranks(self) -> NDArray[np.int64]:
        return self.ranks.astype(np.int64)

    def _stored_ranks(self) -> NDArray[Any]:
        return self.ranks


def _stored_elements(
    levels: Levels,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, column and rank of every element that is not ω0, by row, then rank, then column."""
    rows, columns = np.nonzero(levels.ranks)
    ranks = levels.ranks[rows, columns].astype(np.int64)
    order = np.argsort(rows * len(levels.values) + ranks, kind="stable")
    return rows[order], columns[order], ranks[order]


def _fields(
    levels: Levels,
    columns: NDArray[np.int64],
    lengths: NDArray[np.int64],
    row_starts: NDArray[np.int64],
) -> dict[str, Any]:
    starts = np.concatenate(([0], np.cumsum(lengths)))
    return {
        "shape": levels.shape,
        "dtype": levels.values.dtype,
        "values": levels.values,
        "columns": columns.astype(column_dtype(levels.shape[1])),
        "segment_starts": starts.astype(pointer_dtype(int(starts[-1]))),
        "row_starts": row_starts.astype(pointer_dtype(int(row_starts[-1]))),
    }


@njit(cache=True, nogil=True)
@no_type_check
def _segment_product(values, columns, ranks, segment_starts, row_starts, x):
    """One multiply per segment; without `ranks`, segments follow the ranks from 1 (CER)."""
    base = values[0]
    every = x.dtype.type(0)
    if base != 0:
        for column in range(len(x)):
            every += x[column]
    out = np.empty(len(row_starts) - 1, x.dtype)
    for row in range(len(out)):
        total = base * every
        first = row_starts[row]
        for segment in range(first, row_starts[row + 1]):
            part = x.dtype.type(0)
            for at in range(segment_starts[segment], segment_starts[segment + 1]):
                part += x[columns[at]]
            rank = ranks[segment] if len(ranks) else segment - first + 1
            total += (values[rank] - base) * part
        out[row] = total
    return out
