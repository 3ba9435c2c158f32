"""Dense storage and compressed sparse rows: the two formats that the others are held against."""

from dataclasses import dataclass
from typing import Any, final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.formats.accounting import Operations, StoredArray, stored_arrays
from tersenet.formats.levels import Levels, index_bits, real_matrix, value_bits
from tersenet.formats.matrix import CountedMatrix

__all__ = ["Csr", "Dense", "column_dtype", "pointer_dtype"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Dense(CountedMatrix):
    """Every element, row by row; multiplied by NumPy's BLAS."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    elements: NDArray[Any]

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Dense":
        """Stores the matrix as it is."""
        array = matrix.dense() if isinstance(matrix, Levels) else real_matrix(matrix)
        return cls(shape=(array.shape[0], array.shape[1]), dtype=array.dtype, elements=array)

    def dense(self) -> NDArray[Any]:
        """A copy of the elements."""
        return self.elements.copy()

    def arrays(self) -> tuple[StoredArray, ...]:
        """The elements alone."""
        return stored_arrays(("W", self.elements.size, value_bits(self.elements)))

    @property
    def memory_bytes(self) -> int:
        """Bytes of the elements."""
        return self.elements.nbytes

    def operations(self, row: int | None = None) -> Operations:
        """Operations of one row of the product, or of all: n products and n - 1 sums a row."""
        rows, columns = self.shape if row is None else (1, self.shape[1])
        return self._operations(
            [rows * columns],
            multiplications=rows * columns,
            additions=rows * (columns - 1),
            rows=rows,
            x_loads=rows * columns,
        )

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        return self.elements.astype(x.dtype, copy=False) @ x

    def _products(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._product(x)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Csr(CountedMatrix):
    """Compressed sparse rows: the non-zero values, their columns, and where each row starts."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    columns: NDArray[Any]
    row_starts: NDArray[Any]

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Csr":
        """Stores what is not zero."""
        array = matrix.dense() if isinstance(matrix, Levels) else real_matrix(matrix)
        kept = array != 0
        starts = np.concatenate(([0], np.cumsum(np.count_nonzero(kept, axis=1))))
        return cls(
            shape=(array.shape[0], array.shape[1]),
            dtype=array.dtype,
            values=array[kept],
            columns=np.nonzero(kept)[1].astype(column_dtype(array.shape[1])),
            row_starts=starts.astype(pointer_dtype(int(starts[-1]))),
        )

    def dense(self) -> NDArray[Any]:
        """The matrix with its zeros put back."""
        out = np.zeros(self.shape, self.dtype)
        lengths = np.diff(self.row_starts.astype(np.int64))
        out[np.repeat(np.arange(self.shape[0]), lengths), self.columns] = self.values
        return out

    def arrays(self) -> tuple[StoredArray, ...]:
        """W, colI and rowPtr of the paper."""
        count = len(self.values)
        return stored_arrays(
            ("W", count, value_bits(self.values)),
            ("colI", count, index_bits(self.shape[1])),
            ("rowPtr", len(self.row_starts), index_bits(count + 1)),
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of the three arrays."""
        return self.values.nbytes + self.columns.nbytes + self.row_starts.nbytes

    def operations(self, row: int | None = None) -> Operations:
        """Operations of one row of the product, or of all: one product per non-zero."""
        lengths = np.diff(self.row_starts.astype(np.int64))
        lengths = lengths if row is None else lengths[[row]]
        count, rows = int(lengths.sum()), len(lengths)
        return self._operations(
            [count, count, 2 * rows],
            multiplications=count,
            additions=int(np.maximum(lengths - 1, 0).sum()),
            rows=rows,
            x_loads=count,
        )

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        values = self.values.astype(x.dtype, copy=False)
        return _csr_product(values, self.columns, self.row_starts, x)


def column_dtype(columns: int) -> type[np.unsignedinteger[Any]]:
    """Type of column numbers in memory: two widths, so that kernels are compiled for two."""
    return np.uint16 if columns <= 1 << 16 else np.uint32


def pointer_dtype(last: int) -> type[np.unsignedinteger[Any]]:
    """Type of positions in memory, up to and including `last`."""
    return np.uint32 if last < 1 << 32 else np.uint64


@njit(cache=True, nogil=True)
@no_type_check
def _csr_product(values, columns, row_starts, x):
    out = np.zeros(len(row_starts) - 1, x.dtype)
    for row in range(len(out)):
        total = x.dtype.type(0)
        for at in range(row_starts[row], row_starts[row + 1]):
            total += values[at] * x[columns[at]]
        out[row] = total
    return out
