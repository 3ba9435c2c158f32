"""Tucker decomposition of convolutions over their channels.

Kim, Park, Yoo, Choi, Yang, Shin, "Compression of Deep Convolutional Neural Networks for Fast and
Low Power Mobile Applications", 2015, arXiv:1511.06530. By higher-order orthogonal iteration: De
Lathauwer, De Moor, Vandewalle, 2000.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.decompose.base import Decomposition
from tersenet.decompose.factors import (
    CONVOLUTIONS,
    Factors,
    Ranks,
    along,
    checked_kernel,
    convolution,
    geometry,
    grouped,
    single_channel,
)
from tersenet.decompose.weighting import Weighting

__all__ = ["Tucker", "tucker"]


def tucker(conv: nn.Module, *, ranks: tuple[int, int]) -> tuple[Factors, Tensor]:
    """Returns the chain for a convolution at ranks (in, out), and the kernel it stands for.

    Raises:
        StructureError: if the layer cannot be factored so, or not at these ranks.
    """
    form = Tucker()
    factors = form.factored(conv, ranks)
    return factors, form.kernel(list(factors), conv).detach()


@final
@method("tucker")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Tucker(Decomposition):
    """Replaces a convolution by 1×1 (in → r₁), k×k (r₁ → r₂), 1×1 (r₂ → out).

    K[o, i] = Σ_ab A[o, b] G[b, a] B[i, a], with orthonormal A and B. With `spatial: rank-1` the
    kernel's spatial axes are cut to rank 1 too: one filter h ⊗ w, the same for all channels, so
    that the core is r depthwise filters k×1 and 1×k, and G is a matrix that joins A. That is
    lossy, but has orthonormal factors where CP may degenerate, and training tells the filters
    apart again.
    """

    spatial: Literal["full", "rank-1"] = "full"
    """What is left of the core's spatial axes."""
    iterations: int = Field(default=5, ge=0)
    """Of alternating improvement after the first guess by SVD."""

    @property
    def form(self) -> str:
        """Tucker, and what is left of space."""
        return "tucker" if self.spatial == "full" else "tucker rank-1"

    def why_not(self, layer: nn.Module) -> str | None:
        """Returns why a layer cannot be factored so, or None."""
        if not isinstance(layer, CONVOLUTIONS):
            return f"is a {type(layer).__name__}, which has no spatial core: use svd"
        if (reason := single_channel(layer)) is not None:
            return reason
        if all(size == 1 for size in layer.kernel_size):
            return "is 1×1: Tucker of it takes more than SVD at the same rank: use svd"
        if self.spatial == "rank-1" and layer.groups > 1:
            return "has groups, which spatial: rank-1 does not take"
        return None

    def full(self, layer: nn.Module) -> Ranks:
        """Returns the channels read and made, of each group."""
        shape = layer.get_parameter("weight").shape
        makes, reads, area = shape[0] // getattr(layer, "groups", 1), shape[1], shape[2:].numel()
        if self.spatial == "rank-1":
            return (min(reads, makes),)
        return min(reads, makes * area), min(makes, reads * area)

    def ranks_of(self, factors: Factors) -> Ranks:
        """Returns the ranks of a chain."""
        groups = getattr(factors.like, "groups", 1)
        reads = len(factors[0].get_parameter("weight")) // groups
        makes = factors[-1].get_parameter("weight").shape[1]
        return (reads,) if self.spatial == "rank-1" else (reads, makes)

    def build(self, layer: nn.Module, ranks: Ranks) -> list[nn.Module]:
        """Returns the layers of the chain."""
        assert isinstance(layer, CONVOLUTIONS)
        reads, makes, groups = layer.in_channels, layer.out_channels, layer.groups
        bias = layer.bias is not None
        if self.spatial == "rank-1":
            return separable_chain(layer, ranks[0])
        first, second = (groups * rank for rank in ranks)
        return [
            convolution(layer, reads, first, groups=groups),
            convolution(layer, first, second, groups=groups, **geometry(layer)),
            convolution(layer, second, makes, groups=groups, bias=bias),
        ]

    def weights(self, layer: nn.Module, ranks: Ranks, weighting: Weighting) -> list[Tensor]:
        """Returns Bᵀ, the core and A."""
        kernels = grouped(layer, checked_kernel(layer))
        if self.spatial == "rank-1":
            return self._separable(kernels[0], ranks[0])
        found = [self._channels(kernel.flatten(2), ranks) for kernel in kernels]  # each group's own
        reads, cores, makes = (torch.cat(parts) for parts in zip(*found, strict=True))
        return [reads, cores, makes]

    def kernel(self, factors: Sequence[nn.Module], like: nn.Module) -> Tensor:
        """Returns Σ_ab A[o, b] G[b, a] B[i, a]."""
        groups = getattr(like, "groups", 1)
        weights = [factor.get_parameter("weight") for factor in factors]
        if self.spatial == "rank-1":
            return separable_kernel(weights)
        reads, core, makes = (weight.unflatten(0, (groups, -1)) for weight in weights)
        reads, makes = reads.flatten(2), makes.flatten(2)
        return torch.einsum("gai,gba...,gob->goi...", reads, core, makes).flatten(0, 1)

    def unfoldings(self, layer: nn.Module) -> list[Tensor]:
        """Returns the kernel laid out by channels read, and by channels made."""
        kernels = grouped(layer, checked_kernel(layer)).flatten(3)  # (group, out, in, area)
        reads, makes = kernels.movedim(2, 1).flatten(2), kernels.flatten(2)
        return [reads] if self.spatial == "rank-1" else [reads, makes]

    def _channels(self, kernel: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
        """Returns Bᵀ, G and A of a kernel (out, in, area)."""
        first, second = ranks
        b = leading(kernel.movedim(1, 0), first)
        a = leading(kernel, second)
        for _ in range(self.iterations):  # each the best for the other as it is
            b = leading(torch.einsum("ois,ob->ibs", kernel, a), first)
            a = leading(torch.einsum("ois,ia->oas", kernel, b), second)
        core = torch.einsum("ois,ob,ia->bas", kernel, a, b)
        return b.mT, core, a

    def _separable(self, kernel: Tensor, rank: int) -> list[Tensor]:
        """Returns the factors of a kernel (out, in, h, w …) at multilinear rank (r, r, 1 …)."""
        modes = [leading(kernel.movedim(1, 0), rank), leading(kernel, rank)]
        modes += [leading(kernel.movedim(at, 0), 1) for at in range(2, kernel.ndim)]
        axes = [1, 0, *range(2, kernel.ndim)]
        for _ in range(self.iterations):
            for at, axis in enumerate(axes):
                rest = kernel
                for other, other_axis in enumerate(axes):
                    if other != at:
                        rest = _along(rest, modes[other], other_axis)
                modes[at] = leading(rest.movedim(axis, 0), modes[at].shape[1])
        core = kernel
        for mode, axis in zip(modes, axes, strict=True):
            core = _along(core, mode, axis)
        joined = modes[1] @ core.flatten(1)  # G joins A: (out, r)
        filters = [mode.T.expand(rank, -1) for mode in modes[2:]]
        return [modes[0].T, *filters, joined]


def leading(tensor: Tensor, rank: int) -> Tensor:
    """Returns the first left singular vectors of a tensor laid out by its first axis."""
    rows = tensor.flatten(1)
    if rows.shape[1] > rows.shape[0]:
        # The same vectors from the small matrix of products: O(m² n) once instead of an SVD.
        vectors = torch.linalg.eigh(rows @ rows.mT).eigenvectors
        return vectors.flip(1)[:, :rank]
    return torch.linalg.svd(rows, full_matrices=False).U[:, :rank]


def separable_chain(layer: nn.Module, rank: int) -> list[nn.Module]:
    """Returns 1×1 (in → r), one depthwise filter for each spatial axis, 1×1 (r → out)."""
    assert isinstance(layer, CONVOLUTIONS)
    axes = range(len(layer.kernel_size))
    return [
        convolution(layer, layer.in_channels, rank),
        *(convolution(layer, rank, rank, groups=rank, **along(layer, (axis,))) for axis in axes),
        convolution(layer, rank, layer.out_channels, bias=layer.bias is not None),
    ]


def separable_kernel(weights: Sequence[Tensor]) -> Tensor:
    """Returns Σ_r A[o, r] B[r, i] h_r ⊗ w_r …."""
    first, *filters, last = weights
    rest = first.flatten(1).mT
    for taps in filters:
        rest = rest.unsqueeze(-2) * taps.flatten(1).mT
    return (last.flatten(1) @ rest.flatten(0, -2).mT).unflatten(1, rest.shape[:-1])


def _along(tensor: Tensor, mode: Tensor, axis: int) -> Tensor:
    return (tensor.movedim(axis, -1) @ mode).movedim(-1, axis)
