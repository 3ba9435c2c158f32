"""Gradients that pass through functions which have none.

Bengio, Léonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons",
2013, arXiv:1308.3432: rounding is treated as the identity when gradients are taken.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["round_through", "scaled_gradient", "sign", "sign_clipped"]


def round_through(x: Tensor) -> Tensor:
    """Returns x rounded, halves to even; its gradient is 1."""
    return x + (x.round() - x).detach()


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """Returns x; its gradient is multiplied by `factor`."""
    return x * factor + (x * (1 - factor)).detach()


def sign(x: Tensor) -> Tensor:
    """Returns +1 where x ≥ 0, else −1: unlike `torch.sign`, never 0."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def sign_clipped(x: Tensor) -> Tensor:
    """Returns `sign(x)` with gradient 1 where |x| ≤ 1, else 0.

    Hubara et al., "Binarized Neural Networks", 2016, arXiv:1602.02830, equation 4.
    """
    return _SignClipped.apply(x)


class _SignClipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)
