"""GPTQ: each column's rounding error is made up for by the columns not yet rounded.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022, arXiv:2210.17323. With H = X X^T over the samples that a layer reads and
U the upper Cholesky factor of its inverse, column j of W is rounded to q(w[j]) and

    W[:, j:] -= (w[j] - q(w[j])) / U[j, j] * U[j, j:]

Here for convolutions, too: X are the patches that a kernel meets, one H for each group. The
samples are those of the quantised network, and the target what the *original* computes, so W
starts as the least-squares solution between the two.
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from tersenet.core.memory import require_memory
from tersenet.export.tracing import operand
from tersenet.quantize.graph.structure import TRANSPOSED
from tersenet.quantize.grids.linear import Grid, round_trip, spread
from tersenet.quantize.rounding.base import ROUNDINGS, Piece, Rounded, Rounding
from tersenet.quantize.rounding.nearest import Nearest

__all__ = ["GPTQ", "gptq", "patches"]

aten = torch.ops.aten


@final
@ROUNDINGS.register("gptq")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class GPTQ(Rounding):
    """Column by column, in closed form: for 4 bits, in seconds."""

    damping: float = Field(default=0.01, gt=0)
    """Of the mean diagonal of H, added to it."""

    def round(self, piece: Piece) -> Rounded:
        """Returns the weights rounded so that what layers compute is kept."""
        ((node, weight),) = piece.weights.items()
        site = piece.sites[node]
        # A transposed convolution's output mixes kernels, so its H is not that of patches; and
        # what is looked up is multiplied with nothing.
        if site.table or site.node.target in TRANSPOSED:
            return Nearest().round(piece)
        read = operand(site.node, 0)
        rounded = gptq(
            site.node,
            weight,
            piece.grids[node],
            original=piece.original[read],
            quantised=piece.quantised[read],
            damping=self.damping,
        )
        return Rounded(weights={node: rounded})


def gptq(
    layer: Node,
    weight: Tensor,
    grid: Grid,
    *,
    original: Sequence[Tensor],
    quantised: Sequence[Tensor],
    damping: float = 0.01,
) -> Tensor:
    """Returns `weight` rounded to `grid`, near what keeps the layer's outputs.

    Args:
        layer: A convolution or linear layer of a graph.
        weight: Its weight, output channel first.
        grid: What it is rounded to.
        original: What it reads in the original, batch by batch.
        quantised: What it reads in the quantised network.
        damping: Of the mean diagonal of H, added to it.

    Raises:
        ResourceError: if there is not the memory for H and what is made of it.
    """
    groups = _groups(layer)
    require_memory(
        _peak_bytes(weight, groups, [y.shape for y in quantised]),
        what=f"GPTQ of {layer.name}, whose kernels read {weight[0].numel():,} values,",
        instead="keep that layer in float, or round it to the nearest or by adaround",
    )
    rows = weight.flatten(1).unflatten(0, (groups, -1)).double()  # (group, out, value)
    hessian, cross = _moments(layer, weight, original, quantised)
    ridge = damping * hessian.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)[:, None]
    for matrix in (hessian, cross):
        matrix.diagonal(dim1=1, dim2=2).add_(ridge)
    # Towards W X Xq^T (Xq Xq^T)^-1: what of the original the quantised inputs can still tell.
    target = torch.linalg.solve(hessian, (rows @ cross).mT).mT
    order = hessian.diagonal(dim1=1, dim2=2).argsort(1, descending=True)  # (group, value)
    inverse = _factor(_permuted(hessian, order))
    work = target.gather(2, order[:, None].expand_as(target))
    scale = _per_value(grid.scale, weight, groups, grid).gather(2, order[:, None].expand_as(target))
    zero = _per_value(grid.zero_point, weight, groups, grid)
    zero = zero.gather(2, order[:, None].expand_as(target))
    done = torch.empty_like(work)
    for j in range(work.shape[2]):
        column, step = work[:, :, j], scale[:, :, j]
        level = ((column / step).round() + zero[:, :, j]).clamp(grid.low, grid.high)
        done[:, :, j] = (level - zero[:, :, j]) * step
        error = (column - done[:, :, j]) / inverse[:, j, j, None]
        work[:, :, j:] -= error[:, :, None] * inverse[:, None, j, j:]
    found = torch.empty_like(done).scatter(2, order[:, None].expand_as(done), done)
    return round_trip(found.flatten(0, 1).view_as(weight).float(), grid)


def _peak_bytes(weight: Tensor, groups: int, inputs: Sequence[Sequence[int]]) -> float:
    """Of H, and of the patches of one batch: a stride of one at most, so as many as places."""
    size = weight[0].numel()
    matrices = 8 * groups * size**2
    places = max(math.prod(shape) / shape[-1 if weight.ndim == 2 else 1] for shape in inputs)
    # Two of float64, what solving copies, and what the allocator keeps meanwhile; and the patches
    # of both networks, laid out twice.
    return 10 * matrices + 3 * 8 * weight.numel() + 3.5 * 4 * groups * size * places


def patches(layer: Node, x: Tensor, weight: Tensor) -> Tensor:
    """Returns what each group's kernel meets in `x`: (group, value, place)."""
    if layer.target is aten.linear.default:
        return x.reshape(-1, x.shape[-1]).T[None]
    groups, kernel = _groups(layer), weight.shape[2:]
    stride, padding, dilation = (operand(layer, index) for index in (3, 4, 5))
    flat = weight.ndim == 3
    x = x[:, :, None] if flat else x
    size = (1, *kernel) if flat else tuple(kernel)
    strides = _pair(stride, 1, flat)
    spread = _pair(dilation, 1, flat)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(spread, size, strict=True)]
        left = [width // 2 for width in total]
        right = [width - half for width, half in zip(total, left, strict=True)]
        x = functional.pad(x, (left[1], right[1], left[0], right[0]))
        padding = 0
    pads = _pair(0 if padding == "valid" else padding, 0, flat)
    columns = functional.unfold(x, size, dilation=spread, padding=pads, stride=strides)
    split = columns.unflatten(1, (groups, -1))  # (sample, group, value, place)
    return split.permute(1, 2, 0, 3).flatten(2)


def _pair(found: object, default: int, flat: bool) -> tuple[int, int]:
    if found is None:
        found = default
    values = list(found) if isinstance(found, list | tuple) else [int(str(found))]
    if len(values) == 1:
        values *= 1 if flat else 2
    return (default, values[0]) if flat else (values[0], values[1])


def _groups(layer: Node) -> int:
    return 1 if layer.target is aten.linear.default else operand(layer, 6) or 1


def _moments(
    layer: Node, weight: Tensor, original: Sequence[Tensor], quantised: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Xq Xq^T and X Xq^T of each group, over all batches."""
    groups = _groups(layer)
    size = weight[0].numel()
    hessian = torch.zeros(groups, size, size, dtype=torch.float64)
    cross = torch.zeros_like(hessian)
    for real, rough in zip(original, quantised, strict=True):
        x, y = patches(layer, real, weight), patches(layer, rough, weight)
        hessian += (y @ y.mT).double()
        cross += (x @ y.mT).double()
    return hessian, cross


def _permuted(hessian: Tensor, order: Tensor) -> Tensor:
    rows = hessian.gather(1, order[:, :, None].expand_as(hessian))
    return rows.gather(2, order[:, None].expand_as(hessian))


def _factor(hessian: Tensor) -> Tensor:
    lower = torch.linalg.cholesky(hessian)
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)


def _per_value(parameter: Tensor, weight: Tensor, groups: int, grid: Grid) -> Tensor:
    """A scale or zero point for every weight: (group, out, value)."""
    each = spread(parameter, weight, grid).double().expand(weight.shape)
    return each.flatten(1).unflatten(0, (groups, -1))
