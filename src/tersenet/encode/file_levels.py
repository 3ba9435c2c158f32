"""Which tensors of a file become levels at a given step, and why the others stay as they are."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tersenet import codec
from tersenet.codec import Quantised
from tersenet.codec.elements import FLOATS, numpy_type

__all__ = ["levels_of"]

SMALLEST: Final = 256
"""Elements below which a matrix is kept bit for bit: there is nothing to gain."""

INFINITE: Final = 1 / 8
"""Share of the largest number of its type from which a value stands for infinity, as those of an
attention mask do."""

FINEST: Final = 1 << 20
"""Levels of one sign at most: finer ones take no fewer bytes than the values themselves, and
are chosen in 32-bit floats, which tell no finer ones apart."""


def levels_of(
    array: NDArray[Any], step: float, under: NDArray[Any] | None = None
) -> Quantised | str:
    """Returns levels of the trellis `step` standard deviations apart, or why there are none.

    The levels are of what changed since `under`, where that is of the same shape and type. They
    come back in the type that the tensor has. All is computed in float64: the deviation of large
    32-bit floats has no 32-bit float, let alone that of 16-bit ones.
    """
    if reason := _unfit(array):
        return reason
    worth = _worth(array, step)
    if isinstance(worth, str):
        return worth
    if under is not None and (under.shape, under.dtype) != (array.shape, array.dtype):
        under = None
    change = array.astype(np.float64) - (0 if under is None else under.astype(np.float64))
    if not np.abs(change).max() <= FINEST * worth:
        return f"would take more than {FINEST:,} levels of {worth:.3g} on each side"
    levels = codec.rd_levels(change.astype(np.float32), worth, dependent=True, base=under)
    if change.any() and not levels.any():
        what = "would be all zero" if under is None else "would not change at all"
        return f"{what} with a step of {worth:.3g}"
    dtype = array.dtype.name
    return Quantised(levels=levels, step=worth, dependent=True, dtype=dtype, base=under)


def _worth(array: NDArray[Any], step: float) -> float | str:
    """What a level is worth, a 32-bit float, or why none would be right."""
    dtype, wide = array.dtype.name, array.astype(np.float64)
    largest = float(np.abs(wide).max())
    if largest >= INFINITE * float(_limits(dtype).max):
        return f"reaches to {largest:.3g}, which stands for infinity in {dtype}"
    if largest == 0 or (deviation := largest * float((wide / largest).std())) == 0:
        return "is constant"
    worth = step * deviation
    least = max(float(_limits("float32").tiny), float(_limits(dtype).smallest_subnormal))
    if worth < least:
        return f"is too small: a step of {worth:.3g} is below {least:.3g}, what {dtype} resolves"
    if max(worth, largest) > float(_limits("float32").max):
        return "is beyond 32-bit floats, in which steps are kept"
    return float(np.float32(worth))


def _unfit(array: NDArray[Any]) -> str:
    """Why a tensor can have no levels whatever the step; empty where it can."""
    if array.dtype.name not in FLOATS:
        return f"is of type {array.dtype.name}"
    if array.ndim < 2:
        return "is no matrix"
    if array.size < SMALLEST:
        return f"has fewer than {SMALLEST} elements"
    if not np.isfinite(array.astype(np.float64)).all():
        return "is NaN or infinite somewhere"
    return ""


def _limits(dtype: str) -> Any:
    if dtype != "bfloat16":
        return np.finfo(numpy_type(dtype))
    import ml_dtypes

    return ml_dtypes.finfo("bfloat16")
