"""Fixed point with an exponent for a whole block instead of one for each value.

Courbariaux et al., "Training deep neural networks with low precision multiplications", 2014,
arXiv:1412.7024: values of a block are integers in units of one power of two, the smallest with
which the largest value still fits.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int

from tersenet.errors import QuantizeError

__all__ = ["FixedPointBlock", "block_fixed_point"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FixedPointBlock:
    """Integers and their shared exponents."""

    levels: Int[np.ndarray, "..."]
    exponents: Int[np.ndarray, " block"]
    """Of the step, one per block of the flattened values."""
    block: int

    @property
    def steps(self) -> Float[np.ndarray, "..."]:
        """The step of every value."""
        each = np.repeat(np.exp2(self.exponents.astype(np.float64)), self.block)
        return each[: self.levels.size].reshape(self.levels.shape).astype(np.float32)

    @property
    def step(self) -> float:
        """The largest of the steps."""
        return float(np.exp2(float(self.exponents.max())))

    @property
    def values(self) -> Float[np.ndarray, "..."]:
        """What the integers stand for, exact in float32 up to 24 bits."""
        return (self.levels * self.steps.astype(np.float64)).astype(np.float32)


def block_fixed_point(
    x: Float[np.ndarray, "..."], *, bits: int = 8, block: int = 64
) -> FixedPointBlock:
    """Returns `x` in `bits` bits, sign included, an exponent for every `block` values.

    Errors are at most half a step.

    Raises:
        QuantizeError: if bits are not 2 to 24, a block is empty, or a value is not finite.
    """
    if not 2 <= bits <= 24:
        raise QuantizeError(f"cannot quantise to {bits} bits: give 2 to 24.")
    if block < 1:
        raise QuantizeError(f"{block} values cannot share an exponent: give at least 1.")
    if not np.isfinite(x).all():
        raise QuantizeError(
            "cannot quantise values that are NaN or infinite: find what made them so."
        )
    size = block
    flat = np.append(x.ravel(), np.zeros(-x.size % size, x.dtype)).astype(np.float64)
    largest = np.abs(flat.reshape(-1, size)).max(1, initial=0.0)
    high = 2 ** (bits - 1) - 1
    # So that the largest is at most half a step above the highest level.
    fits = np.log2(np.maximum(largest, 2.0**-140) / (high + 0.5))
    exponents = np.ceil(fits - 1e-12).astype(np.int64)
    levels = np.rint(flat.reshape(-1, size) / np.exp2(exponents)[:, None])
    levels = np.clip(levels, -high - 1, high).ravel()[: x.size].reshape(x.shape)
    return FixedPointBlock(levels=levels.astype(np.int32), exponents=exponents, block=size)
