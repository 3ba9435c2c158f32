"""The contract of every format: exact round trip, a product, and what both cost."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError
from tersenet.formats.accounting import Access, Operations, StoredArray
from tersenet.formats.levels import Levels

__all__ = ["CountedMatrix", "Matrix"]


class Matrix(abc.ABC):
    """A matrix in one storage format.

    `matrix @ x` multiplies it with a vector (columns,) or a batch (columns, batch), in float32,
    or in float64 where the matrix or x is float64. x must be finite (this is not checked: it
    would cost as much as a small product); zeros that are not stored do not turn an infinity
    into NaN.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    """Type of the matrix that was encoded, which `dense` returns."""

    @classmethod
    @abc.abstractmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Matrix":
        """Encodes a matrix of integers or floats, or levels that are read already.

        Raises:
            FormatError: The matrix cannot be encoded in this format.
        """

    @abc.abstractmethod
    def dense(self) -> NDArray[Any]:
        """The matrix again: equal element by element, in its own type."""

    @abc.abstractmethod
    def arrays(self) -> tuple[StoredArray, ...]:
        """The arrays of the format as a file stores them."""

    @property
    @abc.abstractmethod
    def memory_bytes(self) -> int:
        """Bytes of the arrays that the product reads, as they lie in memory."""

    @abc.abstractmethod
    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        """The product with a contiguous vector (columns,)."""

    def _products(self, x: NDArray[Any]) -> NDArray[Any]:
        """The product with a contiguous batch (columns, batch): vector by vector, if no better."""
        out = np.empty((self.shape[0], x.shape[1]), x.dtype)
        for sample, vector in enumerate(np.ascontiguousarray(x.T)):
            out[:, sample] = self._product(vector)
        return out

    @property
    def entries(self) -> int:
        """Entries of all arrays together, as the CER paper counts them."""
        return sum(array.entries for array in self.arrays())

    @property
    def bits(self) -> int:
        """Bits of all arrays together, each at its own width."""
        return sum(array.bits for array in self.arrays())

    @property
    def compute_dtype(self) -> type[np.floating[Any]]:
        """What a product with float32 is computed in."""
        return np.float64 if self.dtype == np.float64 else np.float32

    def __matmul__(self, x: ArrayLike) -> NDArray[Any]:
        """Multiplies with a vector (columns,) or a batch (columns, batch).

        Raises:
            FormatError: x does not fit, or is not real.
        """
        array = np.asarray(x)
        if array.ndim not in (1, 2) or array.shape[0] != self.shape[1]:
            raise FormatError(
                f"A matrix of shape {self.shape} cannot multiply an array of shape"
                f" {array.shape}: give ({self.shape[1]},) or ({self.shape[1]}, batch)."
            )
        if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
            raise FormatError(
                f"A matrix cannot multiply an array of {array.dtype}: give integers or floats of"
                " up to 64 bits."
            )
        if array.ndim == 1:
            return self._product(np.ascontiguousarray(array, self._product_dtype(array)))
        return self._products(np.ascontiguousarray(array, self._product_dtype(array)))

    def __repr__(self) -> str:
        """Format, shape and size: the arrays themselves would fill pages."""
        rows, columns = self.shape
        return (
            f"{type(self).__name__}({rows}×{columns} {self.dtype},"
            f" {self.bits / (rows * columns):.3g} bits an element)"
        )

    def _product_dtype(self, x: NDArray[Any]) -> type[np.floating[Any]]:
        return np.float64 if x.dtype == np.float64 else self.compute_dtype


class CountedMatrix(Matrix):
    """A format of the CER paper, whose product is counted operation by operation."""

    @abc.abstractmethod
    def operations(self, row: int | None = None) -> Operations:
        """Operations of one row of the product, or of the whole product with one vector."""

    def _operations(
        self,
        counts: Sequence[int],
        *,
        multiplications: int,
        additions: int,
        rows: int,
        x_loads: int,
    ) -> Operations:
        """Operations whose loads from `arrays()` are `counts`, in the same order."""
        bits = 8 * np.dtype(self.compute_dtype).itemsize
        reads = [
            Access(array=array.name, count=count, bits_each=array.bits_each, array_bits=array.bits)
            for array, count in zip(self.arrays(), counts, strict=True)
        ]
        vector = Access(array="x", count=x_loads, bits_each=bits, array_bits=bits * self.shape[1])
        return Operations(
            reads=(*reads, vector),
            multiplications=multiplications,
            additions=additions,
            written=Access(array="y", count=rows, bits_each=bits, array_bits=bits * self.shape[0]),
        )
