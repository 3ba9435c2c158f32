"""What the layers that read a unit would miss without it.

A layer that reads channels computes Y = Σ_c Z_c, with Z_c what it makes of channel c. Without
the channels in T its error is |Σ_{c∈T} Z_c|² = 1_Tᵀ G 1_T, where G_cd = ⟨Z_c, Z_d⟩: all that a
choice by reconstruction needs to know. G follows from the moments of what the layer reads,
G_cd = Σ (XᵀX ∘ WᵀW) over the block of c's columns and d's.
"""

import abc
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.types import Subject
from tersenet.errors import StructureError
from tersenet.graph import ChannelGroup, Member
from tersenet.prune.observe import ObservedScore
from tersenet.train.least_squares import (
    NormalEquations,
    is_linear_map,
    places,
    read_rows,
    seeing,
    weight_rows,
    written_rows,
)

__all__ = ["ReconstructionScore", "contributions", "refit"]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ReconstructionScore(ObservedScore):
    """Chooses the channels that the layers reading them are rebuilt best from.

    The choice alone: follow it by `repair: least-squares`, which the papers do in the same
    breath. Layers that read the same units count by their relative errors. Needs data, no
    targets.
    """

    scope: Literal["global", "layer"] = "layer"
    """A score is a place in the order of removal: units compete within each group."""
    positions: int = Field(default=10, ge=1)
    """Of the output, drawn at random from every sample."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns each unit's place in the order of removal, for each group by name.

        Raises:
            DataError: if there is no calibration data.
            StructureError: if no layer that can be rebuilt reads a group.
        """
        grams = self._grams(subject, groups)
        return {name: self.places(gram) for name, gram in grams.items()}

    @abc.abstractmethod
    def places(self, gram: Float[Tensor, "unit unit"]) -> Float[Tensor, " unit"]:
        """Returns a score for each unit from G; the lowest go first."""

    def _why_not(self, group: ChannelGroup) -> str | None:
        reason = super()._why_not(group)
        return reason or (None if _readers(group) else "no layer with weights reads it")

    def _grams(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, "unit unit"]]:
        """Returns G of each group, each reader's error relative to its output."""
        model, data = subject.model, self.data(subject)
        readers = {group.name: _fitting(group, model) for group in groups}
        names = dict.fromkeys(_site(one) for found in readers.values() for one in found)
        moments: dict[str, NormalEquations] = defaultdict(NormalEquations)
        generator = torch.Generator().manual_seed(0)

        def see(name: str, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
            at = places(layer, outputs, each=self.positions, generator=generator)
            moments[name].add(read_rows(layer, inputs, at), written_rows(layer, outputs, at))

        with seeing(model, names, see):
            for inputs, _ in data:
                model(inputs)
        found = {}
        for group in groups:
            gram = torch.zeros(group.size, group.size, dtype=torch.float64)
            for reader in readers[group.name]:
                name = _site(reader)
                if name not in moments:
                    raise StructureError(
                        f"'{name}' is used without its module being called, so what it reads "
                        f"cannot be watched: add '{group.name}' to skip."
                    )
                weight = weight_rows(model.get_submodule(name))[0]
                every = contributions(
                    moments[name].read[0], weight, weight.shape[1] // _width(reader, model)
                )
                gram += _by_unit(every / every.sum().clamp_min(1e-300), reader, group.size)
            found[group.name] = gram
        return found


def contributions(
    read: Float[Tensor, "column column"], weight: Float[Tensor, "output column"], kernel: int = 1
) -> Float[Tensor, "channel channel"]:
    """Returns G from XᵀX and the weight, whose columns are channels of `kernel` entries each."""
    products = read * (weight.mT @ weight)
    channels = len(read) // kernel
    return products.view(channels, kernel, channels, kernel).sum((1, 3))


def refit(
    x: Float[Tensor, "row channel"], weight: Float[Tensor, "output channel"], kept: list[int]
) -> Float[Tensor, "output kept"]:
    """Returns the weights on the kept channels whose outputs are nearest to those of all."""
    moments = NormalEquations()
    moments.add(x[:, kept].double()[None], (x @ weight.mT).double()[None])
    return moments.fit(weight[:, kept].double()[None], ridge=1e-9)[0].to(weight.dtype)


def _readers(group: ChannelGroup) -> list[Member]:
    return [one for one in group.members if one.site is None and one.dim == 1]


def _fitting(group: ChannelGroup, model: nn.Module) -> list[Member]:
    found = [
        one
        for one in _readers(group)
        if is_linear_map(module := model.get_submodule(_site(one)))
        and one.tensor.endswith(".weight")
        and getattr(module, "groups", 1) == 1
    ]
    if not found:
        raise StructureError(
            f"no linear layer or ungrouped convolution reads '{group.name}', so nothing shows what "
            "its units are needed for: add it to skip, or use another criterion."
        )
    return found


def _site(reader: Member) -> str:
    return reader.tensor.rpartition(".")[0]


def _width(reader: Member, model: nn.Module) -> int:
    return model.get_parameter(reader.tensor).shape[1]


def _by_unit(gram: Tensor, reader: Member, units: int) -> Tensor:
    """Sums over the channels of each unit, on both sides."""
    belongs = torch.zeros(units, len(gram), dtype=torch.float64)
    for unit, own in enumerate(reader.indices):
        belongs[unit, list(own)] = 1
    return belongs @ gram @ belongs.T
