"""What integer kernels compute, in plain integer arithmetic: the reference for all others.

    y = clamp(round(sum((x - zero_x) * w) * scale_x * scale_w / scale_y) + zero_y)

with products of bytes summed in 32 bits (Jacob et al. 2017, arXiv:1712.05877, equation 7).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tersenet.errors import QuantizeError
from tersenet.quantize.grids.granularity import ByTensor
from tersenet.quantize.grids.linear import Grid, dequantize, quantize
from tersenet.quantize.grids.scheme import Scheme

__all__ = ["integer_linear", "requantized"]


def integer_linear(
    x: Float[Tensor, "sample inner"],
    weight: Float[Tensor, "out inner"],
    *,
    output: Grid | None = None,
    simulate: bool = False,
) -> Tensor:
    """Returns the levels of x W^T, from 8-bit levels of both.

    Args:
        x: is laid on the asymmetric grid of its own range.
        weight: on a symmetric one for each output.
        output: the grid of the result; by default that of its own range.
        simulate: multiply the reals that levels stand for instead of the levels.

    Raises:
        QuantizeError: if a range is not finite or of zero width, or sums could overflow.
    """
    entering = Scheme(mode="asymmetric", per=ByTensor()).grid(x)
    stored = Scheme().grid(weight)
    ours, theirs = quantize(x, entering), quantize(weight, stored)
    if output is None:
        reals = dequantize(ours, entering) @ dequantize(theirs, stored).T
        output = Scheme(mode="asymmetric", per=ByTensor()).grid(reals)
    if simulate:
        return quantize(dequantize(ours, entering) @ dequantize(theirs, stored).T, output)
    if weight.shape[1] * 255 * 127 >= 2**31:
        raise QuantizeError(
            f"{weight.shape[1]} products of bytes may overflow 32 bits: split the layer."
        )
    left = ours.to(torch.int32) - entering.zero_point.to(torch.int32)
    total = left @ theirs.to(torch.int32).T  # int32 throughout
    return requantized(total, entering.scale * stored.scale, output)


def requantized(total: Tensor, unit: Tensor, output: Grid) -> Tensor:
    """Returns the levels on `output` of int32 sums in units of `unit`, one per column."""
    levels = (total.double() * (unit.double() / output.scale.double())).round()
    levels = levels + output.zero_point.double()
    return levels.clamp(output.low, output.high).to(output.zero_point.dtype)
