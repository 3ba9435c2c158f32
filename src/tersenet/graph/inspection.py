"""The table behind `tersenet inspect`: layers, groups, and what must stay and why."""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from tersenet.core.types import LayerCost, Skip
from tersenet.graph.costs import parameters
from tersenet.graph.flow import trace
from tersenet.graph.groups import ChannelGroup

__all__ = ["Inspection", "inspect"]


@final
@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a network consists of."""

    layers: tuple[LayerCost, ...]
    """In the order of execution."""
    groups: tuple[ChannelGroup, ...]
    """What can be removed, largest multiply-accumulates first."""
    frozen: tuple[Skip, ...]
    """Filters that must stay, and why."""
    params: int
    nonzeros: int
    macs: int
    """Of one sample."""


def inspect(model: nn.Module, example: tuple[Tensor, ...]) -> Inspection:
    """Returns what can be removed from a network and what cannot, with costs and reasons.

    Raises:
        StructureError: if the network cannot be exported.
    """
    graph = trace(model, example)
    params, nonzeros = parameters(model)
    return Inspection(
        layers=graph.layers,
        groups=tuple(sorted(graph.groups, key=lambda group: -group.size * group.macs_per_channel)),
        frozen=tuple(
            Skip(group.name, f"{group.size} filters stay: {group.reason}") for group in graph.frozen
        ),
        params=params,
        nonzeros=nonzeros,
        macs=sum(layer.macs for layer in graph.layers),
    )
