"""What every format starts from: a checked matrix, and its distinct values by falling frequency."""

from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError

__all__ = ["Levels", "real_matrix", "index_bits", "index_dtype", "value_bits"]

_CHUNK: Final = 1 << 20
"""Elements looked up at once: the temporaries stay in the cache, whatever the matrix."""


@final
@dataclass(frozen=True, eq=False)
class Levels:
    """A matrix as ranks into its distinct values, the most frequent value first.

    Ties in frequency go to the smaller value, so that equal matrices give equal files.
    """

    ranks: NDArray[Any]
    """(row, column): the rank of each element's value, in the narrowest unsigned type."""
    values: NDArray[Any]
    """The distinct values, by falling frequency, in the type of the matrix."""
    counts: NDArray[np.int64]
    """How often each value occurs."""

    @classmethod
    def of(cls, matrix: "ArrayLike | Levels") -> "Levels":
        """Reads a matrix; levels that are read already pass through.

        Raises:
            FormatError: Not a finite, real, two-dimensional matrix of at least one element.
        """
        if isinstance(matrix, Levels):
            return matrix
        array = real_matrix(matrix)
        values = _distinct_values(array)
        codes = np.empty(array.shape, index_dtype(len(values)))
        flat, out = array.reshape(-1), codes.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            out[start : start + _CHUNK] = np.searchsorted(values, flat[start : start + _CHUNK])
        counts = _counts(out, len(values))
        order = np.lexsort((values, -counts))
        rank_of = np.empty(len(values), codes.dtype)
        rank_of[order] = np.arange(len(values), dtype=codes.dtype)
        return cls(ranks=rank_of[codes], values=values[order], counts=counts[order])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.ranks.shape[0], self.ranks.shape[1]

    @property
    def entropy_bits(self) -> float:
        """Zero-order entropy, in bits per element."""
        share = self.counts / self.counts.sum()
        return float(-(share * np.log2(share)).sum()) + 0.0

    @property
    def zero_share(self) -> float:
        """The share of elements that are zero, 0 to 1."""
        return float(self.counts[self.values == 0].sum() / self.counts.sum())

    def dense(self) -> NDArray[Any]:
        """The matrix again, exactly."""
        return self.values[self.ranks]


def real_matrix(matrix: ArrayLike) -> NDArray[Any]:
    """The matrix as a C-contiguous array in native byte order, with -0.0 read as 0.0.

    Pruning by multiplication with a mask leaves -0.0 behind; as a level of its own it would
    double the zeros of every format and mean nothing.

    Raises:
        FormatError: Not a finite, real, two-dimensional matrix of at least one element.
    """
    try:
        array = np.asarray(matrix)
    except ValueError as error:
        raise FormatError(f"This is no array ({error}): give rows of equal length.") from error
    if array.ndim != 2:
        raise FormatError(
            f"A matrix has 2 dimensions and this array has {array.ndim}: reshape a convolution's"
            " kernel to (output channels, the rest)."
        )
    if array.size == 0:
        raise FormatError(f"A matrix of shape {array.shape} has no elements: drop the layer.")
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise FormatError(
            f"A matrix of {array.dtype} has no levels: give integers or floats of up to 64 bits."
        )
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    if array.dtype.kind != "f":
        return array
    if not np.isfinite(array).all():
        row, column = (int(axis[0]) for axis in np.nonzero(~np.isfinite(array)))
        raise FormatError(
            f"The matrix holds {array[row, column]} at row {row}, column {column}: only finite"
            " values can be encoded, so repair the weights first."
        )
    return array + array.dtype.type(0)  # -0.0 + 0.0 is 0.0


def index_bits(count: int) -> int:
    """Bits of an index into `count` things, at least 1: ceil(log2(count))."""
    return max(1, (count - 1).bit_length())


def index_dtype(count: int) -> type[np.unsignedinteger[Any]]:
    """The narrowest unsigned NumPy type that indexes `count` things.

    Raises:
        FormatError: More than 2**64 of them.
    """
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        if count - 1 <= int(np.iinfo(dtype).max):
            return dtype
    raise FormatError(f"An index into {count} things needs more than 64 bits: split the matrix.")


def value_bits(values: NDArray[Any]) -> int:
    """Bits that a stored value takes: integers as 8, 16, 32 or 64 bits, floats as they are."""
    if values.dtype.kind == "f":
        return 8 * values.dtype.itemsize
    if values.size == 0:
        return 8
    low, high = int(values.min()), int(values.max())
    for bits in (8, 16, 32):
        # Unsigned matrices may use the sign bit: the file says which it is.
        floor, ceiling = (0, 2**bits) if low >= 0 else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        if floor <= low and high < ceiling:
            return bits
    return 64


def _distinct_values(array: NDArray[Any]) -> NDArray[Any]:
    """The distinct values in rising order, without sorting a hundred million elements."""
    flat = array.reshape(-1)
    known = np.unique(flat[:4096])
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        at = np.minimum(np.searchsorted(known, chunk), len(known) - 1)
        fresh = chunk[known[at] != chunk]
        if fresh.size:
            known = np.union1d(known, fresh)
    return known


def _counts(codes: NDArray[Any], kinds: int) -> NDArray[np.int64]:
    total = np.zeros(kinds, np.int64)
    for start in range(0, codes.size, _CHUNK):  # bincount widens its input to 64 bits
        total += np.bincount(codes[start : start + _CHUNK], minlength=kinds)
    return total
