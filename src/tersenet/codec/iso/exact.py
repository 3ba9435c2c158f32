"""32-bit floats in a file that NNCodec 2.1.3 reads: as levels that are exact, or as they are.

Its reader fails at whatever follows a unit of raw floats: the unit's bytes are counted in NumPy's
unsigned integers, which added to Python's give a float, and a float is no place in a file. So a
file holds one such unit at most, and as its last. All others are written as levels of a power of
two, which give the same floats wherever the bits of a tensor, from the highest of its largest
value to the lowest that is set, number no more than the 31 of a level.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.iso.units import nearest_qp, step_of
from tersenet.codec.levels.quantised import Quantised

__all__ = ["exact_levels", "without_raw"]

BITS: Final = 31
"""Of a level's magnitude."""


def exact_levels(array: NDArray[np.float32]) -> Quantised | None:
    """Returns levels and a step, a power of two, that stand for exactly these floats, if any do.

    None where the bits are too many, or a value is not finite or a negative zero.
    """
    if not np.isfinite(array).all() or (np.signbit(array) & (array == 0)).any():
        return None
    values = array[array != 0].astype(np.float64)
    if not values.size:
        return Quantised(levels=np.zeros(array.shape, np.int32), step=1.0)
    mantissas, exponents = np.frexp(values)  # value = mantissa * 2**exponent, 0.5 <= |mantissa| < 1
    whole = np.abs(np.ldexp(mantissas, 24)).astype(np.int64)
    lowest = np.log2(whole & -whole).astype(np.int64)  # exact: powers of two
    finest = int((exponents - 24 + lowest).min())
    if int(exponents.max()) - finest > BITS:
        return None
    step = float(np.ldexp(1.0, finest))
    if not np.float32(step) or step_of(nearest_qp(step)) != step:
        return None
    return Quantised(levels=np.ldexp(array.astype(np.float64), -finest).astype(np.int32), step=step)


def without_raw(
    tensors: Mapping[str, NDArray[Any] | Quantised],
) -> dict[str, NDArray[Any] | Quantised]:
    """Returns tensors of which at most one is of raw floats, and that last.

    Raises:
        ValueError: Of several neither can be levels.
    """
    found: dict[str, NDArray[Any] | Quantised] = dict(tensors)
    raw = {
        name: tensor
        for name, tensor in tensors.items()
        if isinstance(tensor, np.ndarray) and tensor.dtype == np.float32
    }
    left = {}
    for name, tensor in raw.items():
        levels = exact_levels(tensor) if len(raw) > 1 and tensor.size and tensor.ndim else None
        if levels is None:
            left[name] = found.pop(name)
        else:
            found[name] = levels
    if len(left) > 1:
        first, second = list(left)[:2]
        raise ValueError(
            f"'{first}' and '{second}' are floats of more than {BITS} bits from the largest to "
            "the least, of which NNCodec 2.1.3 reads one tensor to a file: give levels of the "
            "others, as nearest(weights, step_of(-80)), or keep them in a container of ours."
        )
    return found | left
