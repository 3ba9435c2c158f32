"""CP decomposition of convolutions: a sum of separable filters.

Lebedev, Ganin, Rakhuba, Oseledets, Lempitsky, "Speeding-up Convolutional Neural Networks Using
Fine-tuned CP-Decomposition", 2014, arXiv:1412.6553; made stable as in Phan et al. 2020,
arXiv:2008.05441.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, final

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
    checked_kernel,
    convolution,
    geometry,
    single_channel,
)
from tersenet.decompose.forms.polyadic import Polyadic, corrected, polyadic
from tersenet.decompose.forms.tucker import separable_chain, separable_kernel
from tersenet.decompose.weighting import Weighting
from tersenet.errors import StructureError

__all__ = ["CP", "cp"]


def cp(
    kernel: Tensor,
    *,
    rank: int,
    layers: Literal[3, 4] = 3,
    iterations: int = 500,
    stable: bool = False,
    seed: int = 0,
) -> Polyadic:
    """Returns the components of a kernel (out, in, *space).

    Args:
        kernel: of a convolution.
        rank: how many components.
        layers: 3 keeps space whole, 4 takes height and width apart.
        iterations: of alternating least squares at most.
        stable: whether a degenerate result is corrected.
        seed: of what starts at random.

    Raises:
        StructureError: if the kernel is not finite, or the rank not possible.
    """
    shaped = kernel.flatten(2) if layers == 3 else kernel
    most = kernel.numel() // max(shaped.shape)
    if not 1 <= rank <= most:
        raise StructureError(
            f"rank {rank} is not possible for a kernel of {'×'.join(map(str, kernel.shape))}: take "
            f"from 1 up to {most}."
        )
    generator = torch.Generator().manual_seed(seed)
    found = polyadic(shaped, rank=rank, iterations=iterations, generator=generator)
    if stable and found.degenerate:
        found = corrected(shaped, found, iterations=iterations, generator=generator)
    return Polyadic(found.factors, tuple(kernel.shape), found.error, found.degenerate)


@final
@method("cp")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class CP(Decomposition):
    """Replaces a convolution by 1×1 (in → r), depthwise filters of r channels, 1×1 (r → out).

    R (C_in + k² + C_out) weights with 3 layers, R (C_in + 2k + C_out) with 4.
    """

    unbounded: ClassVar[bool] = True

    layers: Literal[3, 4] = 3
    """3 has one k×k filter for each channel, 4 has a k×1 and a 1×k."""
    iterations: int = Field(default=60, ge=1)
    """Of alternating least squares at most."""
    stable: bool = True
    """Whether components that cancel each other are made small again, at an error that is larger
    by 1 % of the kernel's norm."""

    @property
    def form(self) -> str:
        """CP, and in how many layers."""
        return f"cp{self.layers}"

    def why_not(self, layer: nn.Module) -> str | None:
        """Returns why a layer cannot be factored so, or None."""
        if not isinstance(layer, CONVOLUTIONS):
            return f"is a {type(layer).__name__}, which has no spatial axes: use svd"
        if (reason := single_channel(layer)) is not None:
            return reason
        if layer.groups > 1:
            return "has groups, which CP does not take: use tucker or svd"
        if all(size == 1 for size in layer.kernel_size):
            return "is 1×1, a matrix, where CP is SVD: use svd"
        if self.layers == 4 and len(layer.kernel_size) != 2:
            return "has not two spatial axes: take layers: 3"
        return None

    def full(self, layer: nn.Module) -> Ranks:
        """Returns the number of components that any kernel of this shape can be written in."""
        shape = layer.get_parameter("weight").shape
        sizes = [*shape[:2], shape[2:].numel()] if self.layers == 3 else list(shape)
        return (math.prod(sizes) // max(sizes),)

    def ranks_of(self, factors: Factors) -> Ranks:
        """Returns the rank of a chain."""
        return (len(factors[0].get_parameter("weight")),)

    def build(self, layer: nn.Module, ranks: Ranks) -> list[nn.Module]:
        """Returns the layers of the chain."""
        assert isinstance(layer, CONVOLUTIONS)
        (rank,) = ranks
        if self.layers == 4:
            return separable_chain(layer, rank)
        return [
            convolution(layer, layer.in_channels, rank),
            convolution(layer, rank, rank, groups=rank, **geometry(layer)),
            convolution(layer, rank, layer.out_channels, bias=layer.bias is not None),
        ]

    def peak_bytes(self, layer: nn.Module, ranks: Ranks) -> float:
        """Returns what factoring takes at most: the kernel times one factor, for two axes."""
        shape = layer.get_parameter("weight").shape
        sizes = sorted([*shape[:2], shape[2:].numel()] if self.layers == 3 else shape)
        (rank,) = ranks
        products = rank * shape.numel() * sum(1 / size for size in sizes[-2:])
        return super().peak_bytes(layer, ranks) + 8.0 * (3 * products + 6 * rank**2)

    def weights(self, layer: nn.Module, ranks: Ranks, weighting: Weighting) -> list[Tensor]:
        """Returns the components' vectors."""
        found = cp(
            checked_kernel(layer),
            rank=ranks[0],
            layers=self.layers,
            iterations=self.iterations,
            stable=self.stable,
        )
        makes, reads, *space = found.factors
        return [reads.T, *(vectors.T for vectors in space), makes]

    def kernel(self, factors: Sequence[nn.Module], like: nn.Module) -> Tensor:
        """Returns the sum of the components."""
        weights = [factor.get_parameter("weight") for factor in factors]
        if self.layers == 4:
            return separable_kernel(weights)
        kernel = separable_kernel([weight.flatten(1) for weight in weights])
        return kernel.unflatten(-1, weights[1].shape[2:])
