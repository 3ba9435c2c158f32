"""PACT: the bound that activations are clipped to learns.

Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018,
arXiv:1805.06085:

    y = clip(x, 0, α),   ŷ = round(y (2ᵏ − 1)/α) α/(2ᵏ − 1);   ∂ŷ/∂α = 1 where x ≥ α, else 0

α is decayed as the weights are, so that it shrinks where clipping costs little.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["pact"]


def pact(x: Tensor, bound: Tensor, *, bits: int) -> Tensor:
    """Returns x clipped to [0, bound] on 2**bits levels; `bound` is a scalar that learns."""
    return _Pact.apply(x, bound, 2**bits - 1)


class _Pact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor, top: int) -> Tensor:
        ctx.save_for_backward(x, bound)
        step = bound / top
        return x.div(step).round_().clamp_(0, top).mul_(step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        x, bound = ctx.saved_tensors
        above = x >= bound
        by_bound = (gradient * above).sum().view_as(bound)
        return gradient * ((x >= 0) & ~above), by_bound, None
