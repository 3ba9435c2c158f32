"""Learned step size quantisation.

Esser et al., "Learned Step Size Quantization" (LSQ), 2019, arXiv:1902.08153. With step s and
levels from n to p,

    x̂ = s round(clip(x / s, n, p))
    ∂x̂/∂s = round(x/s) − x/s inside, n below, p above;   ∂x̂/∂x = 1 inside, else 0

and the step's gradient is scaled by 1 / sqrt(N p), N being how many values share it. The step
starts at 2 mean|x| / sqrt(p).

Bhalgat et al., "LSQ+", 2020, arXiv:2004.09576, learn an offset as well. Here it is kept on the
grid, as a level of zero z that is rounded: zero stays exact, and the result is what ONNX can say.

    x̂ = s (clip(round(x/s) + z, n, p) − z);   ∂x̂/∂z = 0 inside, −s outside
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tersenet.quantize.aware.formulas.straight import round_through, scaled_gradient

__all__ = ["first_step", "lsq", "lsq_plus"]


def lsq(x: Tensor, step: Tensor, *, low: int, high: int) -> Tensor:
    """Returns x on the grid of `step`, which broadcasts to x and learns."""
    shared = x.numel() / step.numel()
    step = scaled_gradient(step, 1 / math.sqrt(shared * max(1, high)))
    return _Learned.apply(x, step, None, low, high)


def lsq_plus(x: Tensor, step: Tensor, zero: Tensor, *, low: int, high: int) -> Tensor:
    """Returns x on a grid whose step and level of zero learn; `zero` is in levels."""
    factor = 1 / math.sqrt(x.numel() / step.numel() * max(1, high))
    # A level is worth a step, so the offset in levels moves as fast as a step's own size does.
    offset = round_through(scaled_gradient(zero, factor).clamp(low, high))
    return _Learned.apply(x, scaled_gradient(step, factor), offset, low, high)


def first_step(mean_magnitude: Tensor, *, high: int) -> Tensor:
    """Returns the step to start from, given mean|x|."""
    return 2 * mean_magnitude / math.sqrt(max(1, high))


class _Learned(torch.autograd.Function):
    """As one function: composed of rounding and clipping it takes twice the passes over x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, zero: Tensor | None, low: int, high: int
    ) -> Tensor:
        ctx.save_for_backward(x, step, zero)
        ctx.ends = low, high
        levels = x.div(step).round_()
        levels = levels.clamp_(low, high) if zero is None else levels.clamp(low - zero, high - zero)
        return levels.mul_(step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        x, step, zero = ctx.saved_tensors
        offset = 0 if zero is None else zero
        low, high = (end - offset for end in ctx.ends)
        v = x / step
        clipped = v.clamp(low, high)
        inside = v == clipped
        by_x = gradient * inside
        # round(v) − v inside; the end itself outside, where v is not clipped to v.
        by_step = torch.where(inside, v.round() - v, clipped).mul_(gradient)
        by_zero = None
        if zero is not None:
            by_zero = (gradient - by_x).mul_(-step).sum_to_size(zero.shape)
        return by_x, by_step.sum_to_size(step.shape), by_zero, None, None
