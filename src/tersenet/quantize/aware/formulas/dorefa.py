"""DoReFa-Net: weights squashed by tanh, activations clipped to [0, 1].

Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
Gradients", 2016, arXiv:1606.06160, equations 5, 9 and 11. With Q(x) = round((2ᵏ − 1) x)/(2ᵏ − 1)
for x in [0, 1],

    ŵ = 2 Q(tanh w / (2 max|tanh w|) + 1/2) − 1;   k = 1: ŵ = sign(w) mean|w|
    x̂ = Q(clip(x, 0, 1))

Gradients pass straight through Q; activations' stop outside [0, 1]. No weight is zero: the
levels of ŵ are odd multiples of 1/(2ᵏ − 1).
"""

import torch
from torch import Tensor

from tersenet.quantize.aware.formulas.straight import round_through, sign

__all__ = ["dorefa", "dorefa_activation"]


def dorefa(w: Tensor, *, bits: int) -> Tensor:
    """Returns the weight in [−1, 1] on 2**bits values."""
    if bits == 1:
        return w + (sign(w) * w.abs().mean() - w).detach()
    top = 2**bits - 1
    squashed = torch.tanh(w)
    share = squashed / (2 * squashed.abs().max()) + 0.5
    return 2 * round_through(share * top) / top - 1


def dorefa_activation(x: Tensor, *, bits: int) -> Tensor:
    """Returns x clipped to [0, 1] on 2**bits levels."""
    top = 2**bits - 1
    return round_through(x.clamp(0, 1) * top) / top
