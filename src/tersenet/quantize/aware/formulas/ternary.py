"""Ternary weights: −, 0, +.

TWN, Li, Zhang, Liu, "Ternary Weight Networks", 2016, arXiv:1605.04711, equations 5 and 6:

    Δ = 0.7 mean|w|,   t = sign(w) where |w| > Δ else 0,   α = mean of |w| over |w| > Δ,   ŵ = α t

TTQ, Zhu et al., "Trained Ternary Quantization", 2016, arXiv:1612.01064, equations 6 to 8: the
two values learn,

    Δ = 0.05 max|w|,   ŵ = W⁺ above Δ, −W⁻ below −Δ, else 0
    ∂/∂W⁺ sums the gradients above Δ, ∂/∂W⁻ those below −Δ with a minus
    ∂/∂w is the gradient times W⁺ above, W⁻ below, 1 between
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tersenet.quantize.aware.formulas.straight import sign

__all__ = ["ternary", "trained_ternary"]


def ternary(w: Tensor) -> Tensor:
    """Returns the TWN of each output channel, dimension 0; gradients pass straight through."""
    rows = w.detach().abs().flatten(1)  # (out, value)
    large = rows > 0.7 * rows.mean(1, keepdim=True)
    scale = (rows * large).sum(1) / large.sum(1).clamp(min=1)
    shape = (-1, *[1] * (w.ndim - 1))
    on_grid = sign(w.detach()) * large.view(w.shape) * scale.view(shape)
    return w + (on_grid - w).detach()


def trained_ternary(w: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
    """Returns the TTQ of w, whose values `plus` and −`minus` are scalars that learn."""
    return _Trained.apply(w, plus, minus)


class _Trained(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
        bound = 0.05 * w.abs().max()
        above, below = w > bound, w < -bound
        ctx.save_for_backward(above, below, plus, minus)
        return above * plus - below * minus

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        above, below, plus, minus = ctx.saved_tensors
        factor = torch.where(above, plus, torch.where(below, minus, torch.ones_like(plus)))
        by_plus = (gradient * above).sum().view_as(plus)
        by_minus = -(gradient * below).sum().view_as(minus)
        return gradient * factor, by_plus, by_minus
