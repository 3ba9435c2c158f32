"""Channel groups: the units of a network that can only be removed together.

`flow.py` finds them. The idea of coupled groups: Fang et al., "DepGraph: Towards Any
Structural Pruning", 2023, arXiv:2301.12900.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

from tersenet.core.types import LayerCost
from tersenet.errors import StructureError
from tersenet.graph.walk import Walk

__all__ = ["ChannelGroup", "Graph", "Member", "Site", "remaining"]


@final
@dataclass(frozen=True)
class Site:
    """A product with a parameter: where filters live."""

    layer: LayerCost
    tensor: str
    """The parameter that holds the filters."""
    filter_dim: int | None
    """The dimension of the tensor that makes outputs; None where it is computed first."""
    kernel: tuple[int, ...]
    """Height and width; () of a linear layer."""


@final
@dataclass(frozen=True)
class Member:
    """One dimension of one parameter or buffer that a group reaches."""

    tensor: str
    dim: int
    indices: tuple[tuple[int, ...], ...]
    """For each unit of the group, its indices in `dim`."""
    site: str | None = None
    """Where `dim` holds filters, their site."""


@final
@dataclass(frozen=True)
class ChannelGroup:
    """Units that must be removed from all members together."""

    name: str
    size: int
    """Removable units."""
    members: tuple[Member, ...]
    macs_per_channel: int
    """Multiply-accumulates that go with one unit, for one sample."""
    params_per_channel: int
    reason: str | None = None
    """Why nothing may be removed; None where units may."""
    over_kept: bool = False
    """Whether the proof takes statistics over the kept units alone."""
    changes: tuple[str, ...] = ()
    """What the network means otherwise with fewer units, such as a layer norm."""

    @property
    def filters(self) -> tuple[Member, ...]:
        """The members whose filters produce the units."""
        return tuple(member for member in self.members if member.site is not None)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sites that produce the units."""
        return tuple(
            dict.fromkeys(member.site for member in self.members if member.site is not None)
        )


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """What can be removed from a network, what cannot and why, and what it all costs."""

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[ChannelGroup, ...]
    """Filters that must stay, with the reason."""
    layers: tuple[LayerCost, ...]
    sites: tuple[Site, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Of every parameter and buffer that the network uses."""
    buffers: frozenset[str]
    """Which of `shapes` are no parameters."""
    params: int
    """Of the whole network."""
    walk: Walk = field(repr=False)
    """The program that was read, with the labels of its values."""

    @cached_property
    def by_name(self) -> Mapping[str, ChannelGroup]:
        """The removable groups by name."""
        return {group.name: group for group in self.groups}

    def group(self, name: str) -> ChannelGroup:
        """Returns a removable group. Raises StructureError where there is none of that name."""
        if name in self.by_name:
            return self.by_name[name]
        kept = next(
            (group for group in self.frozen if name == group.name or name in group.sources), None
        )
        if kept is not None:
            raise StructureError(f"nothing can be removed from '{name}': {kept.reason}.")
        known = ", ".join(list(self.by_name)[:8]) or "none"
        raise StructureError(f"there is no group '{name}' in the network; it has: {known}.")

    def removed(self, keep: Mapping[str, Sequence[int]]) -> dict[tuple[str, int], set[int]]:
        """Returns the indices that go from each (tensor, dimension) when units are kept.

        Raises:
            StructureError: if a group is unknown, loses all its units, or lacks a kept unit.
        """
        gone: dict[tuple[str, int], set[int]] = defaultdict(set)
        for name, units in keep.items():
            group, kept = self.group(name), set(units)
            if not kept:
                raise StructureError(
                    f"all {group.size} units of '{name}' would be removed: keep at least one."
                )
            if not kept <= set(range(group.size)) or len(kept) != len(units):
                raise StructureError(
                    f"the kept units of '{name}' must be distinct and below {group.size}."
                )
            for member in group.members:
                for unit in set(range(group.size)) - kept:
                    gone[member.tensor, member.dim].update(member.indices[unit])
        return {key: indices for key, indices in gone.items() if indices}

    def costs(self, keep: Mapping[str, Sequence[int]]) -> tuple[int, int]:
        """Returns the parameters and the multiply-accumulates per sample that remain."""
        gone = self.removed(keep)
        params, macs = self.params, sum(layer.macs for layer in self.layers)
        for tensor, shape in self.shapes.items():
            if any((tensor, dim) in gone for dim in range(len(shape))):
                rest = remaining(shape, tensor, gone)
                params -= 0 if tensor in self.buffers else math.prod(shape) - math.prod(rest)
                for site in self.sites:
                    if site.tensor == tensor:
                        macs -= site.layer.macs
                        macs += site.layer.macs * math.prod(rest) // math.prod(shape)
        return params, macs


def remaining(
    shape: tuple[int, ...], tensor: str, gone: Mapping[tuple[str, int], set[int]]
) -> list[int]:
    """Returns a tensor's shape without the indices that go."""
    return [size - len(gone.get((tensor, dim), ())) for dim, size in enumerate(shape)]
