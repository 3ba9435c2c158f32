"""A form of decomposition: which layers it takes, what it makes of them, and back."""

import abc
import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from tersenet.core.memory import require_memory
from tersenet.decompose.factors import Factors, Ranks, checked_kernel, dense_layer
from tersenet.decompose.weighting import Weighting
from tersenet.errors import StructureError

__all__ = ["Form", "check_ranks"]


class Form(abc.ABC):
    """What one kind of factors needs to say of itself."""

    unbounded: ClassVar[bool] = False
    """Whether ranks go beyond those that pay by far: candidates are then shares of what pays."""

    @property
    @abc.abstractmethod
    def form(self) -> str:
        """What distinguishes these factors from others."""

    @abc.abstractmethod
    def why_not(self, layer: nn.Module) -> str | None:
        """Returns why a layer cannot be factored so, or None."""

    @abc.abstractmethod
    def full(self, layer: nn.Module) -> Ranks:
        """Returns the highest ranks a layer can have."""

    @abc.abstractmethod
    def ranks_of(self, factors: Factors) -> Ranks:
        """Returns the ranks of a chain."""

    @abc.abstractmethod
    def build(self, layer: nn.Module, ranks: Ranks) -> list[nn.Module]:
        """Returns the layers that take its place, their weights not set."""

    @abc.abstractmethod
    def weights(self, layer: nn.Module, ranks: Ranks, weighting: Weighting) -> list[Tensor]:
        """Returns the factors' weights, one for each parameter but the bias."""

    @abc.abstractmethod
    def kernel(self, factors: Sequence[nn.Module], like: nn.Module) -> Tensor:
        """Returns the kernel of the one layer that computes what the factors compute."""

    def peak_bytes(self, layer: nn.Module, ranks: Ranks) -> float:
        """Returns what factoring takes at most: singular vectors in float64, and copies."""
        shape = layer.get_parameter("weight").shape
        return 8.0 * (9 * shape.numel() + 4 * min(max(shape[:2]), shape.numel() // shape[0]) ** 2)

    def unfoldings(self, layer: nn.Module) -> list[Tensor]:
        """Returns for each rank the matrices whose rank it is, one of each group.

        Raises:
            StructureError: if the form has no such matrices.
        """
        raise StructureError(
            f"{self.form} has no matrices whose singular values could be counted: take ranks by "
            "rate, manual, sensitivity or latency."
        )

    def factored(
        self, layer: nn.Module, ranks: Ranks, weighting: Weighting | None = None
    ) -> Factors:
        """Returns the chain that takes a layer's place.

        Raises:
            StructureError: if the layer cannot be factored so, the ranks are 0 or above full, or
                the kernel is not finite.
            ResourceError: if there is not the memory for it.
        """
        what = type(layer).__name__
        if not isinstance(getattr(layer, "weight", None), Tensor):
            raise StructureError(f"a {what} has no weight, so it cannot be factored: leave it out.")
        if (reason := self.why_not(layer)) is not None:
            raise StructureError(f"{self.form} cannot factor a {what}: it {reason}.")
        check_ranks(ranks, self.full(layer), what)
        require_memory(
            self.peak_bytes(layer, ranks),
            what=f"{self.form} of a {what} of {layer.get_parameter('weight').numel():,} weights",
            instead="leave that layer out, or take lower ranks",
        )
        checked_kernel(layer)
        layers = self.build(layer, ranks)
        found = self.weights(layer, ranks, weighting or Weighting())
        with torch.no_grad():
            for own, value in zip(itertools.chain(*map(_weights, layers)), found, strict=True):
                own.copy_(value.reshape(own.shape))
            if getattr(layer, "bias", None) is not None:
                layers[-1].get_parameter("bias").copy_(layer.get_parameter("bias"))
        return Factors(self.form, layer, layers).train(layer.training)

    def dense(self, module: nn.Module) -> nn.Module:
        """Returns the layer itself, or the one that a chain of this form stands for."""
        if not isinstance(module, Factors):
            return module
        bias = module[-1]._parameters.get("bias")  # noqa: SLF001 (an embedding has none)
        kernel = self.kernel(list(module), module.like).detach()
        return dense_layer(module.like, kernel, None if bias is None else bias.detach().clone())


def check_ranks(ranks: Ranks, full: Ranks, what: str) -> None:
    """Raises StructureError unless there are as many ranks as `full`, from 1 up to these."""
    if len(ranks) == len(full) and all(1 <= r <= most for r, most in zip(ranks, full, strict=True)):
        return
    texts = ["×".join(map(str, sizes)) for sizes in (ranks, full)]
    raise StructureError(
        f"ranks {texts[0]} are not possible for {what}: take from 1 up to {texts[1]}."
    )


def _weights(layer: nn.Module) -> Iterator[nn.Parameter]:
    return (
        parameter
        for name, parameter in layer.named_parameters()
        if name.rpartition(".")[2] != "bias"
    )
