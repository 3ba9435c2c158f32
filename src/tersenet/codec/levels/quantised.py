"""A tensor as integers, and what they stand for: steps, a codebook, a change to a base."""

import zlib
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.elements import FLOATS, fits, numpy_type

__all__ = ["Quantised", "check_of", "update_order", "zero_of"]

MAX_CODEBOOK: Final = 1 << 16
"""Values of a codebook at most."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Quantised:
    """A tensor as integers and what each is worth: weight = level * step.

    `step` is one number, or one per slice of the first dimension; it is kept as 32-bit
    float, so round it before quantising (`numpy.float32`). With a codebook the weight is
    codebook[level + zero] * step, with `zero` the index of the value nearest zero. With a base
    it is added to that: the levels are then an update, which only who has the base can read.
    """

    levels: NDArray[Any]
    step: float | NDArray[Any] = 1.0
    dependent: bool = False
    """The levels are a path through the trellis (`rd_levels(..., dependent=True)`)."""
    dtype: str = "float32"
    codebook: NDArray[Any] | None = None
    """Values in ascending order, kept as 32-bit floats."""
    base: NDArray[Any] | None = None
    """The tensor that this one updates, of the same shape and type. A path through the trellis
    then runs in the order of `rd_levels(..., base=...)`."""

    def __post_init__(self) -> None:
        if self.levels.dtype.kind not in "iu" or not fits(self.levels):
            raise ValueError(f"Levels are 32-bit integers, not {self.levels.dtype} beyond them.")
        steps = np.asarray(self.step, dtype=np.float32)
        rows = self.levels.shape[0] if self.levels.ndim else None
        if steps.ndim > 1 or (steps.ndim == 1 and steps.shape[0] != rows):
            raise ValueError(f"{steps.shape} steps for levels of shape {self.levels.shape}.")
        if not (np.isfinite(steps).all() and (steps > 0).all()):
            raise ValueError("A step must be positive and finite.")
        if self.dtype not in FLOATS:
            raise ValueError(f"Levels come back as one of {', '.join(FLOATS)}, not {self.dtype}.")
        if self.base is not None and (self.base.shape, self.base.dtype.name) != (
            self.levels.shape,
            self.dtype,
        ):
            raise ValueError(
                f"A base of {self.base.dtype} {self.base.shape} for {self.dtype} "
                f"{self.levels.shape}: take the tensor of the same name."
            )
        if self.codebook is not None:
            self._check_codebook(self.codebook, steps)

    def _check_codebook(self, book: NDArray[Any], steps: NDArray[np.float32]) -> None:
        values = np.asarray(book, np.float32)
        if values.ndim != 1 or not 0 < values.size <= MAX_CODEBOOK:
            raise ValueError(f"A codebook is 1 to {MAX_CODEBOOK} values, not {values.shape}.")
        if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
            raise ValueError("The values of a codebook are finite and ascend.")
        if self.dependent or steps.ndim:
            raise ValueError("A codebook has one step, and no trellis.")
        zero = zero_of(values)
        if self.levels.size and not (
            -zero <= int(self.levels.min()) and int(self.levels.max()) < values.size - zero
        ):
            raise ValueError("A level names no value of its codebook.")

    def weights(self) -> NDArray[Any]:
        """The weights the levels stand for."""
        steps = np.asarray(self.step, dtype=np.float32).astype(np.float64)
        steps = steps.reshape(-1, *[1] * (self.levels.ndim - 1)) if steps.ndim else steps
        found: NDArray[Any] = self.levels
        if self.codebook is not None:
            values = np.asarray(self.codebook, np.float32)
            found = values.astype(np.float64)[self.levels.astype(np.int64) + zero_of(values)]
        # A level of 32 bits times a step of 24 is exact in double precision, nearly always.
        with np.errstate(over="ignore"):
            found = np.asarray(found * steps)
            if self.base is not None:
                found = found + self.base.astype(np.float64)
            return np.asarray(found).astype(numpy_type(self.dtype))


def zero_of(values: NDArray[Any]) -> int:
    """The index of the value nearest zero, the lower of two: what level 0 stands for."""
    return int(np.abs(np.asarray(values, np.float32)).argmin())


def check_of(array: NDArray[Any]) -> int:
    """The CRC-32 of a tensor's bytes: what an update knows its base by."""
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def update_order(base: NDArray[Any]) -> NDArray[np.int64] | None:
    """The indices of an update's levels in the order they are coded in; None is row by row.

    Where there are zeros and others, those whose base is zero come first, all as one row. A
    pruned network that was trained on with its masks held has changed in the second part alone,
    and the contexts learn that. ISO's temporal contexts serve the same end.
    """
    zero = np.asarray(base).reshape(-1) == 0
    return None if zero.all() or not zero.any() else np.argsort(~zero, kind="stable")
