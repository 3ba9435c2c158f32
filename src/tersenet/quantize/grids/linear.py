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
from typing import Literal, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor

from tersenet.errors import QuantizeError

__all__ = [
    "Grid",
    "Mode",
    "asymmetric",
    "dequantize",
    "quantize",
    "round_trip",
    "spread",
    "symmetric",
]

Mode: TypeAlias = Literal["asymmetric", "full", "restricted"]
"""How levels lie around zero: see the table above."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The reals that n bits can hold: scale * (level - zero_point)."""

    scale: Float[Tensor, "..."]
    """Units per level: a scalar, one per channel, or (channel, group) where `group` is set."""
    zero_point: Tensor
    """The level of zero, of `scale`'s shape, in the type of the levels: unsigned where they
    start at 0, of 16 bits where there are more than 256."""
    low: int
    high: int
    group: int | None = None
    """That many values of a channel, in the order of memory, share a scale; the last group may
    be shorter. The channel is then dimension 0."""

    @property
    def levels_per_unit(self) -> Tensor:
        """Deck 3's q_x."""
        return 1 / self.scale

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The least and the largest real on the grid."""
        zero = self.zero_point.to(self.scale.dtype)
        return (self.low - zero) * self.scale, (self.high - zero) * self.scale


def asymmetric(
    minimum: Tensor, maximum: Tensor, *, bits: int = 8, group: int | None = None
) -> Grid:
    """Returns the grid of 2**bits levels from `minimum` to `maximum`.

    The range is first widened to hold zero, which then is one of the levels: padding and what
    a ReLU cut stay exact.

    Raises:
        QuantizeError: if bits are not 2 to 16, or a range is NaN, infinite, of zero width, or so
            narrow that its scale has no 32-bit float.
    """
    _check_bits(bits)
    low, high = minimum.double().clamp(max=0), maximum.double().clamp(min=0)
    _check_range(low, high)
    per_unit = (2**bits - 1) / (high - low)
    # The end of the range that is farther from zero decides.
    scale = _scales(1 / per_unit)
    kind = torch.uint8 if bits <= 8 else torch.uint16
    zero_point = (-low * per_unit).round().to(kind)
    return Grid(scale=scale, zero_point=zero_point, low=0, high=2**bits - 1, group=group)


def symmetric(
    magnitude: Tensor,
    *,
    bits: int = 8,
    mode: Literal["full", "restricted"] = "restricted",
    group: int | None = None,
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
    scale = _scales(1 / per_unit)
    zero_point = torch.zeros_like(scale, dtype=torch.int8 if bits <= 8 else torch.int16)
    return Grid(scale=scale, zero_point=zero_point, low=low, high=high, group=group)


def quantize(x: Tensor, grid: Grid, *, axis: int = 0) -> Tensor:
    """Returns the levels of `x`; `axis` is the channel's dimension where scales are many.

    Raises:
        QuantizeError: if `x` is not finite.
    """
    if not torch.isfinite(x).all():
        raise QuantizeError(
            "cannot quantise values that are NaN or infinite: find what made them so."
        )
    scale, zero_point = (
        spread(grid.scale, x, grid, axis=axis),
        spread(grid.zero_point, x, grid, axis=axis),
    )
    levels = (x / scale).round() + zero_point.to(scale.dtype)
    return levels.clamp(grid.low, grid.high).to(grid.zero_point.dtype)


def dequantize(levels: Tensor, grid: Grid, *, axis: int = 0) -> Tensor:
    """Returns the reals that `levels` stand for."""
    scale = spread(grid.scale, levels, grid, axis=axis)
    zero_point = spread(grid.zero_point, levels, grid, axis=axis).to(scale.dtype)
    return (levels.to(scale.dtype) - zero_point) * scale


def round_trip(x: Tensor, grid: Grid, *, axis: int = 0) -> Tensor:
    """Returns the values of `grid` that `x` is rounded to."""
    return dequantize(quantize(x, grid, axis=axis), grid, axis=axis)


def spread(parameter: Tensor, x: Tensor, grid: Grid, *, axis: int = 0) -> Tensor:
    """Returns a scale or zero point of `grid` so that it broadcasts to the values of `x`."""
    if parameter.ndim == 0:
        return parameter
    if grid.group is not None:
        each = parameter.repeat_interleave(grid.group, 1)  # (channel, value)
        return each[:, : x[0].numel()].reshape(x.shape)
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.view(shape)


def _scales(exact: Tensor) -> Tensor:
    """Returns scales in float32, where one that underflows would divide by zero.

    A channel among others may, as nobody feels it; a whole tensor would be lost.
    """
    least = torch.finfo(torch.float32).tiny
    if exact.numel() and (exact < least).all():
        raise QuantizeError(
            f"cannot quantise values as small as these: a step of {float(exact.max()):.3g} has no "
            "32-bit float; multiply them, and divide what reads them."
        )
    return exact.clamp(min=least).float()


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 16:
        raise QuantizeError(f"cannot quantise to {bits} bits: give 2 to 16.")


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
