"""Depthwise separable convolutions in the place of ordinary ones.

Howard et al., "MobileNets", 2017, arXiv:1704.04861, for the block; that the best one is a
truncated singular value decomposition of each input channel's filters: Guo, Li, Lin, Chen,
"Network Decoupling: From Regular to Depthwise Separable Convolutions", BMVC 2018,
arXiv:1808.05517.
"""

import math
from collections import OrderedDict
from typing import final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.replace.base import Kernel, Replacement, Sizes
from tersenet.replace.sites import PlainConvolution

__all__ = ["DepthwiseSeparable"]


@final
@method("depthwise-separable")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class DepthwiseSeparable(Replacement):
    """A convolution of each channel, then 1×1 across channels.

    The filters that read input channel i are a matrix of n rows and k² columns; its best
    approximation of rank m is m spatial kernels, each with a weight for every output. With
    multiplier m the cost falls to m (1/n + 1/k²) of the convolution's.
    """

    multiplier: int = Field(default=1, ge=1)
    """m: spatial kernels for each input channel."""

    def sizes(self, conv: PlainConvolution) -> Sizes | str:
        """Returns the multiplier."""
        if self.multiplier > (most := min(conv.taps, conv.filters)):
            return f"{self.multiplier} kernels for each channel are more than its rank, {most}"
        return {"multiplier": self.multiplier}

    @staticmethod
    def block(conv: PlainConvolution, sizes: Sizes) -> nn.Module:
        """Returns depthwise, then pointwise."""
        c, n, inner = conv.channels, conv.filters, conv.channels * sizes["multiplier"]
        return nn.Sequential(
            OrderedDict(
                depthwise=conv.spatial(c, inner, groups=c),
                pointwise=nn.Conv2d(inner, n, 1, bias=conv.bias),
            )
        )

    @staticmethod
    def macs(conv: PlainConvolution, sizes: Sizes) -> int:
        """Returns (k² + n) · m · c · h · w."""
        inner = sizes["multiplier"] * conv.channels
        return (conv.taps + conv.filters) * inner * math.prod(conv.makes)

    @staticmethod
    def fit_(block: nn.Module, weight: Kernel, bias: Tensor | None) -> float:
        """Takes the first m singular triples of each input channel's filters."""
        depthwise, pointwise = (block.get_submodule(name) for name in ("depthwise", "pointwise"))
        n, c = weight.shape[:2]
        m = len(depthwise.get_parameter("weight")) // c
        # (channel, filter, tap) = U diag(S) Vᵀ
        u, s, v = torch.linalg.svd(weight.permute(1, 0, 2, 3).flatten(2), full_matrices=False)
        root = s[:, :m].sqrt()
        spatial = root[:, :, None] * v[:, :m]  # (channel, rank, tap)
        across = u[:, :, :m] * root[:, None, :]  # (channel, filter, rank)
        depthwise.get_parameter("weight").copy_(spatial.reshape(c * m, 1, *weight.shape[2:]))
        pointwise.get_parameter("weight").copy_(across.permute(1, 0, 2).reshape(n, c * m, 1, 1))
        if bias is not None:
            pointwise.get_parameter("bias").copy_(bias)
        energy = s.square()
        return float(energy[:, m:].sum() / energy.sum().clamp_min(1e-300))
