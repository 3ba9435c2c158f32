"""Making a layer's outputs as many as its inputs, so that it can be dropped.

The layer's surplus filters go, and with them the inputs of what reads them; or, where it makes
fewer channels than it reads, the surplus filters of the layer before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from tersenet.errors import StructureError
from tersenet.graph.groups import ChannelGroup, Graph

__all__ = ["Width", "equal_widths"]


@final
@dataclass(frozen=True, kw_only=True)
class Width:
    """A layer that is to go."""

    site: str
    tensor: str
    """Its weight."""
    filter_dim: int
    channels: tuple[int, int]
    """That it reads and makes."""

    @property
    def unequal(self) -> bool:
        """Whether it cannot be dropped as it is."""
        return self.channels[0] != self.channels[1]


def equal_widths(graph: Graph, layers: Iterable[Width]) -> dict[str, tuple[int, ...]]:
    """Returns the units to keep, by group, for each layer to read as many channels as it makes.

    The first ones stay. Groups that keep everything are left out.

    Raises:
        StructureError: if a surplus cannot go: it is tied to other layers' or it is the
            network's output.
    """
    layers = list(layers)
    ways = {layer.site: (_reading(graph, layer), _making(graph, layer)) for layer in layers}
    size = {group.name: group.size for pair in ways.values() for group in pair if group}
    changed = True
    while changed:  # a layer that shrinks may make its neighbours unequal
        changed = False
        for layer in layers:
            groups = ways[layer.site]
            counts = [
                size[group.name] if group else fixed
                for group, fixed in zip(groups, layer.channels, strict=True)
            ]
            for group, count in zip(groups, counts, strict=True):
                if count > min(counts):
                    if group is None:
                        raise StructureError(
                            f"'{layer.site}' reads {counts[0]} channels and makes {counts[1]}, and "
                            "the surplus is not its own to remove: add it to skip."
                        )
                    size[group.name], changed = min(counts), True
    return {
        name: tuple(range(count))
        for name, count in size.items()
        if count < graph.by_name[name].size
    }


def _making(graph: Graph, layer: Width) -> ChannelGroup | None:
    return _local(graph, (layer.tensor, layer.filter_dim))


def _reading(graph: Graph, layer: Width) -> ChannelGroup | None:
    kinds = _kinds(graph)
    if kinds[layer.site].startswith("depthwise"):
        return _making(graph, layer)
    return _local(graph, (layer.tensor, 1 - layer.filter_dim))


def _local(graph: Graph, place: tuple[str, int]) -> ChannelGroup | None:
    """Returns the group of single channels there that one layer makes, or None."""
    kinds = _kinds(graph)
    for group in graph.groups:
        own = [member for member in group.members if (member.tensor, member.dim) == place]
        makers = [source for source in group.sources if not kinds[source].startswith("depthwise")]
        if own and len(makers) <= 1 and all(len(unit) == 1 for unit in own[0].indices):
            return group
    return None


def _kinds(graph: Graph) -> Mapping[str, str]:
    return {site.layer.site: site.layer.kind for site in graph.sites}
