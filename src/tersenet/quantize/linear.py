"""Linear quantisation: a range of reals laid onto a few integers.

The formulas are those of Distiller's range-based linear quantisation (deck 3): with q levels
per unit, x_q = round(q x) + zero_point, halves to even, clamped to the ends. ONNX calls 1/q
the scale, which is what is kept here.

Levels per unit at n bits:

    asymmetric             q = (2**n - 1) / (max - min)     levels 0 .. 2**n - 1
    symmetric, full        q = (2**n - 1) / 2 / max|x|      levels -2**(n-1) .. 2**(n-1) - 1
    symmetric, restricted  q = (2**(n-1) - 1) / max|x|      levels -(2**(n-1) - 1) .. 2**(n-1) - 1

Restricted symmetric levels lose one of 2**n but make -x the mirror of x, which the kernels of
ONNX Runtime and OpenVINO are fastest with. Asymmetric levels spend none of them on values that
never occur: after a ReLU, symmetric ones waste a whole bit.
"""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tersenet.errors import QuantizeError

__all__ = ["Grid", "asymmetric", "dequantize", "quantize", "symmetric"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The reals that n bits can hold: scale * (level - zero_point)."""

    scale: Float[Tensor, "..."]
    """Units per level: a scalar, or one per channel."""
    zero_point: Tensor
    """The level of zero: uint8 where levels start at 0, else int8; of `scale`'s shape."""
    low: int
    high: int

    @property
    def levels_per_unit(self) -> Tensor:
        """Deck 3's q_x."""
        return 1 / self.scale

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The least and the largest real on the grid."""
        zero = self.zero_point.to(self.scale.dtype)
        return (self.low - zero) * self.scale, (self.high - zero) * self.scale


def asymmetric(minimum: Tensor, maximum: Tensor, *, bits: int = 8) -> Grid:
    """Returns the grid of 2**bits levels from `minimum` to `maximum`.

    The range is first widened to hold zero, which then is one of the levels: padding and what
    a ReLU cut stay exact.

    Raises:
        QuantizeError: if bits are not 2 to 8, or a range is NaN, infinite or of zero width.
    """
    _check_bits(bits)
    low, high = minimum.double().clamp(max=0), maximum.double().clamp(min=0)
    _check_range(low, high)
    per_unit = (2**bits - 1) / (high - low)
    # The end of the range that is farther from zero decides; a scale that underflows float32
    # would divide by zero.
    scale = (1 / per_unit).clamp(min=torch.finfo(torch.float32).tiny).float()
    zero_point = (-low * per_unit).round()
    return Grid(scale=scale, zero_point=zero_point.to(torch.uint8), low=0, high=2**bits - 1)


def symmetric(
    magnitude: Tensor, *, bits: int = 8, mode: Literal["full", "restricted"] = "restricted"
) -> Grid:
    """Returns the grid whose level 0 is zero and whose ends lie at -+`magnitude`.

    Raises:
        QuantizeError: as `asymmetric`.
    """
    _check_bits(bits)
    largest = magnitude.double().abs()
    _check_range(-largest, largest)
    high = 2 ** (bits - 1) - 1
    low, per_unit = -high, high / largest
    if mode == "full":
        low, per_unit = -high - 1, (2**bits - 1) / 2 / largest
    scale = (1 / per_unit).clamp(min=torch.finfo(torch.float32).tiny).float()
    return Grid(
        scale=scale, zero_point=torch.zeros_like(scale, dtype=torch.int8), low=low, high=high
    )


def quantize(x: Tensor, grid: Grid, *, axis: int = 0) -> Tensor:
    """Returns the levels of `x`; `axis` is the channel's dimension where scales are many.

    Raises:
        QuantizeError: if `x` is not finite.
    """
    if not torch.isfinite(x).all():
        raise QuantizeError(
            "cannot quantise values that are NaN or infinite: find what made them so."
        )
    scale, zero_point = _along(grid.scale, x, axis), _along(grid.zero_point, x, axis)
    levels = (x / scale).round() + zero_point
    return levels.clamp(grid.low, grid.high).to(grid.zero_point.dtype)


def dequantize(levels: Tensor, grid: Grid, *, axis: int = 0) -> Tensor:
    """Returns the reals that `levels` stand for."""
    scale, zero_point = _along(grid.scale, levels, axis), _along(grid.zero_point, levels, axis)
    return (levels.to(scale.dtype) - zero_point) * scale


def _along(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    if parameter.ndim == 0:
        return parameter
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.view(shape)


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 8:
        raise QuantizeError(f"cannot quantise to {bits} bits: give 2 to 8.")


def _check_range(low: Tensor, high: Tensor) -> None:
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise QuantizeError(
            "cannot quantise a range that is NaN or infinite: find what made it so."
        )
    if (high < low).any():
        raise QuantizeError(
            "cannot quantise a range whose maximum is below its minimum: swap them."
        )
    if (high == low).any():
        raise QuantizeError("cannot quantise a range of zero width: every value in it is zero.")
