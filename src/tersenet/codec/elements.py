"""The types that a tensor's elements may have."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tersenet.errors import FormatError

__all__ = ["DTYPES", "FLOATS", "fits", "numpy_type"]

DTYPES: Final = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64", "complex64", "complex128",
    "bfloat16", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
"""Element types by their code in the file, from 0. The last three need `ml_dtypes`."""

FLOATS: Final = ("float16", "float32", "float64", "bfloat16")
"""Types that quantised tensors can come back as."""


def numpy_type(name: str) -> np.dtype[Any]:
    """The NumPy type of that name, little-endian.

    Raises:
        FormatError: It needs `ml_dtypes`, which is not installed.
    """
    if name not in DTYPES[-3:]:
        return np.dtype(name).newbyteorder("<")
    try:
        import ml_dtypes
    except ImportError:
        raise FormatError(
            f"Values of type {name} need the package ml_dtypes: install it."
        ) from None
    return np.dtype(getattr(ml_dtypes, name))


def fits(array: NDArray[Any]) -> bool:
    """Whether integers fit 32 bits."""
    limits = np.iinfo(np.int32)
    return not array.size or bool(array.min() >= limits.min and array.max() <= limits.max)
