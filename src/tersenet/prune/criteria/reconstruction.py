"""What the layers that read a unit would miss without it.

A layer that reads channels computes Y = Σ_c Z_c, with Z_c what it makes of channel c. Without
the channels in T its error is |Σ_{c∈T} Z_c|² = 1_Tᵀ G 1_T, where G_cd = ⟨Z_c, Z_d⟩: all that a
choice by reconstruction needs to know. G follows from the moments of what the layer reads,
G_cd = Σ (XᵀX ∘ WᵀW) over the block of c's columns and d's.

This is for the choice alone: follow it by `repair: least-squares`, which the papers do in the
same breath.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tersenet.core.types import Batch
from tersenet.errors import StructureError
from tersenet.graph import ChannelGroup, Member
from tersenet.train.least_squares import (
    NormalEquations,
    is_linear_map,
    places,
    read_rows,
    seeing,
    weight_rows,
    written_rows,
)

__all__ = ["contributions", "grams", "refit", "why_not_rebuilt"]


def grams(
    model: nn.Module, groups: Sequence[ChannelGroup], data: Sequence[Batch], *, positions: int
) -> dict[str, Float[Tensor, "unit unit"]]:
    """Returns G of each group by name, each reader's error relative to its output.

    Layers that read the same units count by their relative errors.

    Args:
        model: the network, only run.
        groups: whose units are to be chosen from.
        data: batches, whose targets are not looked at.
        positions: of the output to look at, drawn at random from every sample.

    Raises:
        StructureError: if no layer that can be rebuilt reads a group.
    """
    readers = {group.name: _fitting(group, model) for group in groups}
    names = dict.fromkeys(_site(reader) for own in readers.values() for reader in own)
    moments: dict[str, NormalEquations] = defaultdict(NormalEquations)
    generator = torch.Generator().manual_seed(0)

    def see(name: str, layer: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        at = places(layer, outputs, each=positions, generator=generator)
        moments[name].add(read_rows(layer, inputs, at), written_rows(layer, outputs, at))

    with seeing(model, names, see):
        for inputs, _ in data:
            model(inputs)
    return {group.name: _gram(group, readers[group.name], model, moments) for group in groups}


def why_not_rebuilt(group: ChannelGroup) -> str | None:
    """Returns why nothing can be rebuilt from a group's units; None if something can."""
    return None if _readers(group) else "no layer with weights reads it"


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


def _gram(
    group: ChannelGroup,
    readers: Sequence[Member],
    model: nn.Module,
    moments: Mapping[str, NormalEquations],
) -> Float[Tensor, "unit unit"]:
    total = torch.zeros(group.size, group.size, dtype=torch.float64)
    for reader in readers:
        name = _site(reader)
        if name not in moments:
            raise StructureError(
                f"'{name}' is used without its module being called, so what it reads "
                f"cannot be watched: add '{group.name}' to skip."
            )
        weight = weight_rows(model.get_submodule(name))[0]
        kernel = weight.shape[1] // model.get_parameter(reader.tensor).shape[1]
        products = contributions(moments[name].read[0], weight, kernel)
        total += _by_unit(products / products.sum().clamp_min(1e-300), reader, group.size)
    return total


def _readers(group: ChannelGroup) -> list[Member]:
    return [member for member in group.members if member.site is None and member.dim == 1]


def _fitting(group: ChannelGroup, model: nn.Module) -> list[Member]:
    fitting = [
        reader
        for reader in _readers(group)
        if is_linear_map(module := model.get_submodule(_site(reader)))
        and reader.tensor.endswith(".weight")
        and getattr(module, "groups", 1) == 1
    ]
    if not fitting:
        raise StructureError(
            f"no linear layer or ungrouped convolution reads '{group.name}', so nothing shows what "
            "its units are needed for: add it to skip, or use another criterion."
        )
    return fitting


def _site(reader: Member) -> str:
    return reader.tensor.rpartition(".")[0]


def _by_unit(gram: Tensor, reader: Member, units: int) -> Tensor:
    """Sums over the channels of each unit, on both sides."""
    belongs = torch.zeros(units, len(gram), dtype=torch.float64)
    for unit, own in enumerate(reader.indices):
        belongs[unit, list(own)] = 1
    return belongs @ gram @ belongs.T
