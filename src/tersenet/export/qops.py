"""The two operators that a quantised network is made of.

One graph is both simulation and export: in PyTorch these operators compute what ONNX defines
for QuantizeLinear and DequantizeLinear, and `to_onnx` writes them as exactly those. So there
is no second description of the quantised network that could differ from the first.
"""

from typing import Final

import torch
from torch import Tensor

__all__ = ["DEQUANTIZE", "QUANTIZE"]


@torch.library.custom_op("tersenet::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """Returns clamp(round(x / scale) + zero_point, low, high) in the type of `zero_point`.

    Halves round to even. `scale` (units per level) and `zero_point` (the level of zero) are
    scalars; `low` and `high` are the levels at the ends.
    """
    levels = x.div(scale).round_().add_(zero_point.to(x.dtype)).clamp_(low, high)
    return levels.to(zero_point.dtype)


@quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    del scale, low, high
    return torch.empty_like(x, dtype=zero_point.dtype)


@torch.library.custom_op("tersenet::dequantize", mutates_args=())
def dequantize(
    levels: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, block: int = 0
) -> Tensor:
    """Returns (levels - zero_point) * scale as float32; without `zero_point`, levels * scale.

    `scale` is a scalar, or has one entry per index of dimension `axis`; with `block`, it is of
    the shape of `levels` but for that dimension, where each entry serves `block` indices.
    `zero_point` likewise.
    """

    def spread(parameter: Tensor) -> Tensor:
        if not parameter.ndim:
            return parameter
        if block:
            each = parameter.repeat_interleave(block, axis)
            return each.narrow(axis, 0, levels.shape[axis])
        shape = [1] * levels.ndim
        shape[axis] = -1
        return parameter.view(shape)

    reals = levels.to(torch.float32)
    if zero_point is not None:
        # Exact: levels with a zero point have 16 bits at most.
        reals.sub_(spread(zero_point.to(torch.float32)))
    return reals.mul_(spread(scale))


@dequantize.register_fake
def _(
    levels: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int, block: int = 0
) -> Tensor:
    del scale, zero_point, axis, block
    return torch.empty_like(levels, dtype=torch.float32)


QUANTIZE: Final = torch.ops.tersenet.quantize.default
DEQUANTIZE: Final = torch.ops.tersenet.dequantize.default
