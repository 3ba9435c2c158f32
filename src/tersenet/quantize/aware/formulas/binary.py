"""Binary weights: a sign and one scale for each filter; and products of signs by counting bits.

Rastegari et al., "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
2016, arXiv:1603.05279, equations 5 and 6: of all α b with b of signs, least |w − α b|² has

    b = sign(w),   α = mean|w|

A product of two vectors of n signs is n − 2 popcount(a xor b): eight signs a byte.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from tersenet.errors import QuantizeError
from tersenet.quantize.aware.formulas.straight import sign

__all__ = ["PackedSigns", "pack_signs", "sign_product", "xnor"]

_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.int32)


def xnor(w: Tensor) -> Tensor:
    """Returns α sign(w) with one α for each output channel, dimension 0.

    The sign's gradient stops where |w| > 1, α's passes: with n values a filter,
    ∂ŵ/∂w = 1/n + α 1[|w| ≤ 1] (section 3.1 there).
    """
    return _Xnor.apply(w)


class _Xnor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        ctx.save_for_backward(w)
        return sign(w) * _scale(w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = gradients
        (w,) = ctx.saved_tensors
        return gradient * (1 / w[0].numel() + _scale(w) * (w.abs() <= 1))


def _scale(w: Tensor) -> Tensor:
    return w.abs().flatten(1).mean(1).view(-1, *[1] * (w.ndim - 1))


class PackedSigns:
    """Rows of signs, eight a byte; a set bit is −1."""

    def __init__(self, bits: np.ndarray, length: int) -> None:
        self.bits = bits
        """(row, byte) uint8."""
        self.length = length
        """Signs of a row."""

    @property
    def nbytes(self) -> int:
        """A 32nd of the floats', where rows are multiples of eight."""
        return self.bits.nbytes


def pack_signs(x: Float[Tensor, "row value"]) -> PackedSigns:
    """Returns the signs of each row of a matrix; zero counts as positive."""
    return PackedSigns(np.packbits((x < 0).numpy(), axis=1), x.shape[1])


def sign_product(left: PackedSigns, right: PackedSigns) -> Int[Tensor, "left right"]:
    """Returns the products of every row of `left` with every row of `right`, exact.

    Raises:
        QuantizeError: if their rows differ in length.
    """
    if left.length != right.length:
        raise QuantizeError(
            f"rows of {left.length} and of {right.length} signs have no product: pack the second "
            "matrix transposed."
        )
    differing = np.zeros((len(left.bits), len(right.bits)), np.int32)
    for row, bits in enumerate(left.bits):
        differing[row] = _BITS_SET[bits ^ right.bits].sum(1)
    return torch.from_numpy(left.length - 2 * differing)
