"""What the fast formats share: few values, in float32, rows in slabs of sixteen lanes."""

import abc
import dataclasses
from typing import Any, ClassVar, Final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError
from tersenet.formats.accounting import StoredArray, stored_arrays
from tersenet.formats.lanes import LANES
from tersenet.formats.levels import Levels, value_bits
from tersenet.formats.matrix import Matrix

__all__ = [
    "FEW",
    "FastMatrix",
    "MANY",
    "addresses",
    "align",
    "align_vector",
    "float32_values",
    "code_bits",
    "pad",
    "pad_codes",
    "slabs",
    "table",
]

FEW: Final = 32
"""Values whose table lies in two registers."""
MANY: Final = 256
"""Values that a byte can name."""
LINE_BYTES: Final = 64
_SINGLE: Final = np.dtype(np.float32)


class FastMatrix(Matrix):
    """A format laid out for the processor: a lane of a register is a row of the matrix.

    Products are computed in, and returned as, float32, whatever the types of matrix and x.
    """

    values: NDArray[Any]
    """The distinct values, in the type of the matrix; a code is a place in here."""
    stream: ClassVar[tuple[str, ...]]
    """Names of the arrays that a product reads once: what memory bandwidth has to carry."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Names of the other arrays that it reads."""

    @classmethod
    @abc.abstractmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "FastMatrix":
        """Encodes a matrix of few values, or levels that are read already.

        Raises:
            FormatError: The matrix cannot be encoded in this format.
        """

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take: what is kept for products holds addresses of arrays."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @abc.abstractmethod
    def _array_sizes(self) -> tuple[tuple[str, int, int], ...]:
        """Name, entries and bits of each, of what is stored beside the values, with its padding."""

    def arrays(self) -> tuple[StoredArray, ...]:
        """The values, and what is stored beside them."""
        return stored_arrays(("Ω", len(self.values), value_bits(self.values)), *self._array_sizes())

    @property
    def stream_bytes(self) -> int:
        """Bytes of a product's read-once stream: what memory bandwidth has to carry."""
        return sum(getattr(self, name).nbytes for name in self.stream)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all arrays that a product reads."""
        return self.stream_bytes + sum(getattr(self, name).nbytes for name in self.beside)

    def __matmul__(self, x: ArrayLike) -> NDArray[Any]:
        """Multiplies as `Matrix` does; a vector with nothing to convert is not looked at twice.

        Small products take a few microseconds, and so would all the checks.
        """
        if (
            type(x) is np.ndarray
            and x.dtype is _SINGLE
            and x.shape == self.shape[1:]
            and x.flags.c_contiguous
        ):
            return self._product(x)
        return super().__matmul__(x)

    def _product_dtype(self, x: NDArray[Any]) -> type[np.floating[Any]]:
        return np.float32


def float32_values(levels: Levels, *, limit: int, format_name: str) -> NDArray[np.float32]:
    """The values of the levels in float32.

    Raises:
        FormatError: More than `limit` values, or values that float32 cannot hold.
    """
    if len(levels.values) > limit:
        raise FormatError(
            f"{format_name} holds up to {limit} distinct values and the matrix has"
            f" {len(levels.values)}: quantise it further, or use Csr or Dense."
        )
    with np.errstate(over="ignore"):
        values = levels.values.astype(np.float32)
    # Compared as Python numbers: NumPy would compare int64 with float32 as float64.
    wrong = [v for v, f in zip(levels.values.tolist(), values.tolist(), strict=True) if v != f]
    if wrong:
        raise FormatError(
            f"{format_name} multiplies in float32, which cannot hold the value {wrong[0]!r}:"
            " round the values to float32, or use Csr or Dense."
        )
    return values


def code_bits(kinds: int) -> int:
    """Bits of a value's code beside a column: 5 for up to 32 values, 8 for up to 256."""
    return 5 if kinds <= FEW else 8


def table(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values padded with zeros to two registers, or to all that 8 bits can name."""
    out = np.zeros(1 << code_bits(len(values)), np.float32)
    out[: len(values)] = values
    return out


def slabs(rows: int) -> int:
    """Slabs of sixteen rows that hold `rows` rows."""
    return -(-rows // LANES)


def align(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that starts on a line of the cache: else each register is loaded from two lines."""
    raw = np.empty(array.nbytes + LINE_BYTES, np.uint8)
    first = -raw.ctypes.data % LINE_BYTES
    out = raw[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


@njit(cache=True, nogil=True)
@no_type_check
def align_vector(x, length):
    """A copy of a float32 vector on a line of the cache, with zeros behind up to `length`."""
    raw = np.empty(length + 16, np.float32)
    first = (64 - raw.ctypes.data % 64) % 64 // 4
    out = raw[first : first + length]
    out[: len(x)] = x
    out[len(x) :] = 0
    return out


def addresses(*arrays: NDArray[Any]) -> list[int]:
    """Where each array lies, and its elements: for kernels that read many arrays.

    Handing an array to a kernel takes a tenth of a microsecond, and a small product has three.
    """
    return [number for array in arrays for number in (array.ctypes.data, array.size)]


def pad(x: NDArray[np.float32], multiple: int) -> NDArray[np.float32]:
    """A vector with zeros behind it, up to a multiple; itself where it fits."""
    missing = -len(x) % multiple
    return np.concatenate((x, np.zeros(missing, x.dtype))) if missing else x


def pad_codes(codes: NDArray[Any], *, rows: int, columns: int) -> NDArray[Any]:
    """Codes with rows and columns of zeros added, up to multiples of the given."""
    height, width = codes.shape
    out = np.zeros((height + -height % rows, width + -width % columns), codes.dtype)
    out[:height, :width] = codes
    return out
