"""Tensor train of linear layers: one large matrix becomes a train of small cores.

Oseledets, "Tensor-Train Decomposition", 2011; as layers: Novikov, Podoprikhin, Osokin, Vetrov,
"Tensorizing Neural Networks", 2015, arXiv:1509.06569.
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.decompose.base import Decomposition
from tersenet.decompose.factors import Factors, Ranks, checked_kernel
from tersenet.decompose.forms.tensor_train_layer import TensorTrainLayer
from tersenet.decompose.weighting import Weighting

__all__ = ["TensorTrain", "split_size", "tensor_train"]


def tensor_train(layer: nn.Linear, *, ranks: Sequence[int], cores: int = 3) -> TensorTrainLayer:
    """Returns the train for a linear layer.

    Raises:
        StructureError: if the layer cannot be factored so, or not at these ranks.
    """
    chain = TensorTrain(cores=cores, least=4).factored(layer, tuple(ranks))
    found = chain[0]
    assert isinstance(found, TensorTrainLayer)
    return found


@final
@method("tensor-train")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class TensorTrain(Decomposition):
    """Replaces a large linear layer by a train of cores, its sides split into factors.

    Saves weights where SVD cannot: ranks are of the reordered matrix (m₁n₁) × (m₂n₂ …), and a
    layer of full matrix rank may have low ones. Products of small cores are slow for their count.
    """

    cores: int = Field(default=3, ge=2, le=6)
    """How many factors each side is split into."""
    least: int = Field(default=4096, ge=4)
    """Weights that a layer must have to be considered."""

    @property
    def form(self) -> str:
        """Tensor train, and of how many cores."""
        return f"tensor-train {self.cores}"

    def why_not(self, layer: nn.Module) -> str | None:
        """Returns why a layer cannot be factored so, or None."""
        if not isinstance(layer, nn.Linear):
            return f"is a {type(layer).__name__}; a tensor train here is of linear layers"
        if layer.weight.numel() < self.least:
            return f"has {layer.weight.numel():,} weights, fewer than {self.least:,}"
        if any(m * n == 1 for m, n in zip(*self._sizes(layer), strict=True)):
            sides = f"{layer.out_features}×{layer.in_features}"
            return f"has sides {sides} that do not split into {self.cores} factors"
        return None

    def full(self, layer: nn.Module) -> Ranks:
        """Returns the ranks at which the train is exact."""
        sizes = [m * n for m, n in zip(*self._sizes(layer), strict=True)]
        return tuple(
            min(math.prod(sizes[:at]), math.prod(sizes[at:])) for at in range(1, self.cores)
        )

    def ranks_of(self, factors: Factors) -> Ranks:
        """Returns the ranks of a train."""
        train = factors[0]
        assert isinstance(train, TensorTrainLayer)
        return train.ranks[1:-1]

    def build(self, layer: nn.Module, ranks: Ranks) -> list[nn.Module]:
        """Returns the train, a single layer."""
        outputs, inputs = self._sizes(layer)
        weight = layer.get_parameter("weight")
        bias = getattr(layer, "bias", None) is not None
        return [
            TensorTrainLayer(
                outputs, inputs, ranks, bias=bias, device=weight.device, dtype=weight.dtype
            )
        ]

    def weights(self, layer: nn.Module, ranks: Ranks, weighting: Weighting) -> list[Tensor]:
        """Returns the cores: TT-SVD, each an SVD of what the ones before left."""
        rest = self._ordered(layer)
        outputs, inputs = self._sizes(layer)
        left, cores = 1, []
        for m, n, rank in zip(outputs, inputs, ranks, strict=False):
            u, s, vt = torch.linalg.svd(rest.reshape(left * m * n, -1), full_matrices=False)
            rank = min(rank, len(s))  # noqa: PLW2901 (an earlier cut leaves no more)
            cores.append(u[:, :rank].reshape(left, m, n, rank))
            rest, left = s[:rank, None] * vt[:rank], rank
        cores.append(rest.reshape(left, outputs[-1], inputs[-1], 1))
        return [
            _padded(core, before, after).flatten(2).flatten(0, 1)
            for core, before, after in zip(cores, (1, *ranks), (*ranks, 1), strict=True)
        ]

    def kernel(self, factors: Sequence[nn.Module], like: nn.Module) -> Tensor:
        """Returns the product of the cores."""
        train = factors[0]
        assert isinstance(train, TensorTrainLayer)
        return train.kernel()

    def unfoldings(self, layer: nn.Module) -> list[Tensor]:
        """Returns the reordered matrix, cut behind each core but the last."""
        whole = self._ordered(layer)
        sizes = [m * n for m, n in zip(*self._sizes(layer), strict=True)]
        return [whole.reshape(1, math.prod(sizes[:at]), -1) for at in range(1, self.cores)]

    def _sizes(self, layer: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
        makes, reads = layer.get_parameter("weight").shape
        # The last core comes first: there a long input meets a short output, which costs least.
        return split_size(makes, self.cores)[::-1], split_size(reads, self.cores)

    def _ordered(self, layer: nn.Module) -> Tensor:
        """Returns W[(m₁ n₁), (m₂ n₂), …] of W[(m₁ m₂ …), (n₁ n₂ …)]."""
        outputs, inputs = self._sizes(layer)
        whole = checked_kernel(layer).reshape(*outputs, *inputs)
        return whole.permute([axis for at in range(self.cores) for axis in (at, at + self.cores)])


def split_size(size: int, parts: int) -> tuple[int, ...]:
    """Returns `parts` factors of a size, as even as its primes allow, rising."""
    factors, rest, prime = [1] * parts, size, 2
    primes = []
    while rest > 1:
        if prime * prime > rest:
            prime = rest
        while rest % prime == 0:
            primes.append(prime)
            rest //= prime
        prime += 1
    for largest in sorted(primes, reverse=True):
        factors[factors.index(min(factors))] *= largest
    return tuple(sorted(factors))


def _padded(core: Tensor, left: int, right: int) -> Tensor:
    """Returns a core with zeros up to its ranks, where the matrices had fewer."""
    grown = core.new_zeros(left, *core.shape[1:3], right)
    grown[: core.shape[0], :, :, : core.shape[3]] = core
    return grown
