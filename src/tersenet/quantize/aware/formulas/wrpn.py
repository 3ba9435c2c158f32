"""WRPN: plain clipping, and wider layers to make up for it.

Mishra et al., "WRPN: Wide Reduced-Precision Networks", 2017, arXiv:1709.01134, section 3: a
weight is clipped to [−1, 1] and has k − 1 bits beside its sign,

    ŵ = round((2ᵏ⁻¹ − 1) clip(w, −1, 1)) / (2ᵏ⁻¹ − 1)

and an activation is clipped to [0, 1] and has k: that is `dorefa_activation`. The widening is
the network's: train one that is two or three times as wide.
"""

from torch import Tensor

from tersenet.quantize.aware.formulas.straight import round_through

__all__ = ["wrpn"]


def wrpn(w: Tensor, *, bits: int) -> Tensor:
    """Returns w on 2**bits − 1 levels of [−1, 1]; `bits` is at least 2."""
    top = 2 ** (bits - 1) - 1
    return round_through(w.clamp(-1, 1) * top) / top
