"""Grouped 1×1, shuffle, k×k of each channel, grouped 1×1, in the place of ordinary convolutions.

Zhang, Zhou, Lin, Sun, "ShuffleNet", 2017, arXiv:1707.01083, for the block. Between a group of
inputs and a group of outputs lie m/g² inner channels, each a product of three vectors: so the
best block is a canonical polyadic decomposition of each of the g² parts of the kernel, as
Lebedev et al., 2014, arXiv:1412.6553, do for a whole kernel, here by alternating least squares.
"""

import math
from collections import OrderedDict
from typing import Final, final

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.models import shuffle
from tersenet.replace.base import Kernel, Replacement, Sizes
from tersenet.replace.sites import PlainConvolution

__all__ = ["Shuffle", "ShuffledGroups", "cp"]

_SWEEPS: Final = 40
_HOLD: Final = 1e-4
"""How firmly a sweep holds on to the last one's factors: terms that cancel cannot grow apart."""


@final
class Shuffle(nn.Module):
    """Deals the channels of each group out over all groups."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Returns the channels in their new order."""
        return shuffle(x, groups=self.groups)


def cp(
    parts: Float[Tensor, "part filter channel tap"], rank: int
) -> tuple[
    Float[Tensor, "part filter rank"],
    Float[Tensor, "part channel rank"],
    Float[Tensor, "part tap rank"],
]:
    """Returns A, B, C of least |T − Σ_r A_r ∘ B_r ∘ C_r|² for each part, as far as sweeps find it.

    Starts from singular vectors: those of the filters, then of what each of them reads.
    """
    filters, channels, taps = parts.shape[1:]
    u, s, v = torch.linalg.svd(parts.flatten(2), full_matrices=False)
    first = min(rank, s.shape[1])
    a = parts.new_zeros(len(parts), filters, rank)
    b, c = (parts.new_zeros(len(parts), size, rank) for size in (channels, taps))
    left, found, right = torch.linalg.svd(
        v[:, :first].unflatten(2, (channels, taps)), full_matrices=False
    )
    # Beyond the filters' rank, what a filter reads has further singular vectors of its own.
    for r in range(rank):
        row, depth = r % first, min(r // first, found.shape[2] - 1)
        scale = (s[:, row] * found[:, row, depth])[:, None]
        a[:, :, r] = u[:, :, row] * scale
        b[:, :, r], c[:, :, r] = left[:, row, :, depth], right[:, row, depth]
    for _ in range(_SWEEPS):
        a = _solve(torch.einsum("pnck,pcr,pkr->pnr", parts, b, c), b, c, a)
        b = _unit(_solve(torch.einsum("pnck,pnr,pkr->pcr", parts, a, c), a, c, b))
        c = _unit(_solve(torch.einsum("pnck,pnr,pcr->pkr", parts, a, b), a, b, c))
    return _solve(torch.einsum("pnck,pcr,pkr->pnr", parts, b, c), b, c, a), b, c


def _solve(right: Tensor, factor: Tensor, other: Tensor, last: Tensor) -> Tensor:
    """Returns the factor of least error given both others, held to the last one."""
    gram = (factor.mT @ factor) * (other.mT @ other)
    hold = _HOLD * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-30)
    damped = gram + hold * torch.eye(gram.shape[1], dtype=gram.dtype)
    return torch.linalg.solve(damped, right + hold * last, left=False)


def _unit(factor: Tensor) -> Tensor:
    return factor / factor.norm(dim=1, keepdim=True).clamp_min(1e-30)


@final
@method("shuffle")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ShuffledGroups(Replacement):
    """Two grouped 1×1 convolutions with a shuffle and a k×k of each channel between them.

    With c channels in and out, hw (2cm/g + k²m) instead of hw k²c².
    """

    groups: int = Field(default=2, ge=1)
    """g: of both 1×1 convolutions; both widths must be multiples of it."""
    width: float = Field(default=1.0, gt=0)
    """m, the inner channels, over the filters; rounded to a multiple of g²."""

    def sizes(self, conv: PlainConvolution) -> Sizes | str:
        """Returns groups and inner channels."""
        g = self.groups
        if conv.channels % g or conv.filters % g:
            return f"{conv.channels} → {conv.filters} channels do not split into {g} groups"
        inner = max(1, round(self.width * conv.filters / g**2)) * g**2
        return {"groups": g, "inner": inner}

    @staticmethod
    def block(conv: PlainConvolution, sizes: Sizes) -> nn.Module:
        """Returns reduce, shuffle, depthwise, expand."""
        g, m = sizes["groups"], sizes["inner"]
        return nn.Sequential(
            OrderedDict(
                reduce=nn.Conv2d(conv.channels, m, 1, groups=g, bias=False),
                shuffle=Shuffle(g),
                depthwise=conv.spatial(m, m, groups=m),
                expand=nn.Conv2d(m, conv.filters, 1, groups=g, bias=conv.bias),
            )
        )

    @staticmethod
    def macs(conv: PlainConvolution, sizes: Sizes) -> int:
        """Returns c · m / g at every pixel read, and k² · m + m · n / g at every pixel made."""
        g, m = sizes["groups"], sizes["inner"]
        made = conv.taps * m + m * conv.filters // g
        return conv.channels * m // g * math.prod(conv.reads) + made * math.prod(conv.makes)

    @staticmethod
    def fit_(block: nn.Module, weight: Kernel, bias: Tensor | None) -> float:
        """Decomposes the part of the kernel between each group of inputs and of outputs."""
        reduce, depthwise, expand = (
            block.get_submodule(name).get_parameter("weight")
            for name in ("reduce", "depthwise", "expand")
        )
        filters, channels = weight.shape[:2]
        g = channels // reduce.shape[1]
        q = len(reduce) // g**2  # inner channels of each part
        split = weight.flatten(2).unflatten(0, (g, -1)).unflatten(2, (g, -1))
        # (outputs' group, filter, inputs' group, channel, tap) to (part, filter, channel, tap)
        parts = split.permute(0, 2, 1, 3, 4).flatten(0, 1)
        a, b, c = cp(parts, q)
        lost = parts - torch.einsum("pnr,pcr,pkr->pnck", a, b, c)
        scale = a.norm(dim=1, keepdim=True).pow(1 / 3)  # each factor takes its share of the gain
        a, b, c = a / scale.square().clamp_min(1e-30), b * scale, c * scale
        for to in range(g):
            for of in range(g):
                part, r = to * g + of, torch.arange(q)
                before = (of * g + to) * q + r  # in the order that `reduce` makes them
                after = (to * q + r) * g + of  # in the order that the shuffle deals them
                reduce[before] = b[part].mT[:, :, None, None]
                depthwise[after] = c[part].mT.reshape(q, 1, *weight.shape[2:])
                rows = slice(to * filters // g, (to + 1) * filters // g)
                expand[rows, after - to * q * g] = a[part][:, :, None, None]
        if bias is not None:
            block.get_submodule("expand").get_parameter("bias").copy_(bias)
        return float(lost.square().sum() / weight.square().sum().clamp_min(1e-300))
