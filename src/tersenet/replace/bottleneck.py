"""Bottlenecks, 1×1 down, k×k, 1×1 up, in the place of ordinary convolutions.

He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385, figure 5, for
the block. The best one is a Tucker decomposition over the channels alone: Kim et al.,
"Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
2015, arXiv:1511.06530; found by alternating projections: De Lathauwer, De Moor, Vandewalle,
SIAM J. Matrix Anal. Appl. 21(4), 2000.
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
from tersenet.replace.base import Kernel, Replacement, Sizes
from tersenet.replace.sites import PlainConvolution

__all__ = ["ChannelBottleneck", "tucker2"]

_SWEEPS: Final = 10
"""Of alternating projections: what they still gain after the first few is below 1e-3."""


def tucker2(
    weight: Kernel, rank: int
) -> tuple[
    Float[Tensor, "filter rank"],
    Float[Tensor, "rank rank height width"],
    Float[Tensor, "channel rank"],
]:
    """Returns U, G, V of least |W − G ×₁ U ×₂ V|², as far as alternating projections find it.

    U and V have orthonormal columns, so that what is lost is |W|² − |G|².
    """
    v = _leading(torch.einsum("ncxy,ndxy->cd", weight, weight), rank)
    u = v
    for _ in range(_SWEEPS):
        seen = torch.einsum("ncxy,cr->nrxy", weight, v)
        u = _leading(torch.einsum("nrxy,mrxy->nm", seen, seen), rank)
        seen = torch.einsum("ncxy,nr->rcxy", weight, u)
        v = _leading(torch.einsum("rcxy,rdxy->cd", seen, seen), rank)
    return u, torch.einsum("ncxy,nr,cs->rsxy", weight, u, v), v


def _leading(gram: Float[Tensor, "n n"], rank: int) -> Float[Tensor, "n rank"]:
    return torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(1)


@final
@method("bottleneck")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ChannelBottleneck(Replacement):
    """1×1 to fewer channels, the convolution there, 1×1 back.

    With c channels in and out, hw (2cm + k²m²) instead of hw k²c².
    """

    width: float = Field(default=0.5, gt=0, le=1)
    """m over the fewer of the channels that the convolution reads and makes."""

    def sizes(self, conv: PlainConvolution) -> Sizes | str:
        """Returns the inner channels."""
        return {"inner": max(1, round(self.width * min(conv.channels, conv.filters)))}

    @staticmethod
    def block(conv: PlainConvolution, sizes: Sizes) -> nn.Module:
        """Returns the three convolutions."""
        inner = sizes["inner"]
        return nn.Sequential(
            OrderedDict(
                reduce=nn.Conv2d(conv.channels, inner, 1, bias=False),
                spatial=conv.spatial(inner, inner),
                expand=nn.Conv2d(inner, conv.filters, 1, bias=conv.bias),
            )
        )

    @staticmethod
    def macs(conv: PlainConvolution, sizes: Sizes) -> int:
        """Returns c · m at every pixel read, and k² · m² + m · n at every pixel made."""
        m = sizes["inner"]
        made = conv.taps * m * m + m * conv.filters
        return conv.channels * m * math.prod(conv.reads) + made * math.prod(conv.makes)

    @staticmethod
    def fit_(block: nn.Module, weight: Kernel, bias: Tensor | None) -> float:
        """Takes the Tucker decomposition's three factors."""
        reduce, spatial, expand = (
            block.get_submodule(name) for name in ("reduce", "spatial", "expand")
        )
        u, core, v = tucker2(weight, len(reduce.get_parameter("weight")))
        reduce.get_parameter("weight").copy_(v.mT[:, :, None, None])
        spatial.get_parameter("weight").copy_(core)
        expand.get_parameter("weight").copy_(u[:, :, None, None])
        if bias is not None:
            expand.get_parameter("bias").copy_(bias)
        energy = weight.square().sum().clamp_min(1e-300)
        return max(0.0, 1 - float(core.square().sum() / energy))
