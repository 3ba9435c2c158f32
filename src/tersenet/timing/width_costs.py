"""The cost of a network as a function of how many units its groups keep."""

import abc
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final

import numpy as np

from tersenet.core.knapsack import Factor
from tersenet.core.types import Deployment, Workbench
from tersenet.graph import ChannelGroup, Graph, Site
from tersenet.timing.staircase import counts_to_time
from tersenet.timing.table import LatencyTable, Widths, kind_of, measure_table
from tersenet.timing.writer import LayerKind

__all__ = ["BlockFilters", "Costs", "SiteWidths", "TableCosts", "measure_costs", "widths_of"]

BlockFilters: TypeAlias = Mapping[str, Sequence[ChannelGroup]]
"""The groups of filters that go with each block that may go whole, by the block's name."""
_JOINT: Final = 3
"""Groups and blocks that a layer's cost may depend on jointly; more are taken apart."""


@final
@dataclass(frozen=True, eq=False)
class SiteWidths:
    """How a layer's widths follow from the units that groups keep."""

    site: Site
    shape: Widths
    """Channels read and made, before anything is removed."""
    per_unit: tuple[Mapping[str, float], Mapping[str, float]]
    """Channels read, and made, that go with one unit of each group."""
    block: str | None = None
    """The block it goes with; its count is 1 where the block stays and 0 where not."""

    @property
    def names(self) -> tuple[str, ...]:
        """The groups that the widths depend on, and the block."""
        return tuple(dict.fromkeys((*itertools.chain(*self.per_unit), *filter(None, [self.block]))))

    def at(self, counts: Mapping[str, int], sizes: Mapping[str, int]) -> tuple[float, float]:
        """Returns the widths when groups keep `counts` of `sizes` units."""
        reads, makes = (
            whole - sum(each * (sizes[name] - counts[name]) for name, each in parts.items())
            for whole, parts in zip(self.shape, self.per_unit, strict=True)
        )
        return reads, makes

    def product(self, counts: Mapping[str, int], sizes: Mapping[str, int]) -> float:
        """Returns s_in s_out, the shares that are kept of the channels read and made."""
        reads, makes = self.at(counts, sizes)
        return reads * makes / (self.shape[0] * self.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Costs(abc.ABC):
    """The time of a network, or its share, as a function of the units that its groups keep."""

    layers: Sequence[SiteWidths]
    sizes: Mapping[str, int]
    """The units that each group has, and 1 of each block."""
    constant: float = 0.0
    """What it takes beside these layers."""

    @abc.abstractmethod
    def layer_ms(self, layer: SiteWidths, counts: Mapping[str, int]) -> float:
        """Returns the time of one layer when groups and blocks keep `counts` units."""

    def ms(self, counts: Mapping[str, int]) -> float:
        """Returns the time of all when groups and blocks keep `counts` units."""
        return self.constant + sum(self.layer_ms(layer, counts) for layer in self.layers)

    def factors(
        self, options: Mapping[str, Sequence[int]], present: Mapping[str, int], *, joint: bool
    ) -> list[Factor]:
        """Returns the time as costs of a knapsack.

        A layer between two groups is charged for both counts together. Where more groups meet in
        a layer, or where not `joint`, each group is charged what it alone would change from the
        present counts: right near these, so the caller repeats at what was found.
        """
        found = [Factor((), np.array(self.constant))]
        for layer in self.layers:
            if len(layer.names) <= _JOINT and joint:
                table = np.zeros([len(options[name]) for name in layer.names])
                for at in np.ndindex(table.shape):
                    picks = zip(layer.names, at, strict=True)
                    chosen = {name: options[name][i] for name, i in picks}
                    table[at] = self.layer_ms(layer, {**present, **chosen})
                found.append(Factor(layer.names, table))
                continue
            here = self.layer_ms(layer, present)
            found.append(Factor((), np.array(here)))
            for name in layer.names:
                changes = [
                    self.layer_ms(layer, {**present, name: count}) - here for count in options[name]
                ]
                found.append(Factor((name,), np.array(changes)))
        return found


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TableCosts(Costs):
    """Milliseconds by a table of layers."""

    table: LatencyTable

    def layer_ms(self, layer: SiteWidths, counts: Mapping[str, int]) -> float:
        """Returns what the table has, or what the layer's operations take at its rate."""
        if layer.block is not None and not counts[layer.block]:
            return 0.0
        kind, (reads, makes) = kind_of(layer.site), layer.at(counts, self.sizes)
        if kind is not None:
            return self.table.ms(kind, reads, makes)
        return self._rate * layer.site.layer.macs * layer.product(counts, self.sizes)

    @property
    def _rate(self) -> float:
        """Milliseconds for each multiply-accumulate of the layers that the table knows."""
        timed = [
            (layer.site.layer.macs, self.table.ms(kind, *layer.shape))
            for layer in self.layers
            if (kind := kind_of(layer.site)) is not None
        ]
        return sum(ms for _, ms in timed) / max(1, sum(macs for macs, _ in timed))


def widths_of(
    graph: Graph, groups: Iterable[ChannelGroup], blocks: BlockFilters | None = None
) -> list[SiteWidths]:
    """Returns how each layer's widths follow from what these groups and blocks keep."""
    home = {
        member.tensor: block
        for block, filters in (blocks or {}).items()
        for group in filters
        for member in group.filters
    }
    parts: dict[tuple[str, int], dict[str, float]] = {}
    for group in groups:
        for member in group.members:
            each = sum(map(len, member.indices)) / group.size
            parts.setdefault((member.tensor, member.dim), {})[group.name] = each
    found = []
    for site in graph.sites:
        shape = graph.shapes[site.tensor]
        makes = site.filter_dim or 0
        reads = 1 - makes
        depthwise = site.layer.kind.startswith("depthwise")
        key = (site.tensor, makes if depthwise else reads)
        found.append(
            SiteWidths(
                site,
                (shape[makes if depthwise else reads], shape[makes]),
                (parts.get(key, {}), parts.get((site.tensor, makes), {})),
                home.get(site.tensor),
            )
        )
    return found


def measure_costs(
    graph: Graph,
    options: Mapping[str, Sequence[int]],
    deployment: Deployment,
    *,
    blocks: BlockFilters | None = None,
    batch: int,
    bench: Workbench,
) -> TableCosts:
    """Measures the table that the groups in `options` need, at the counts they may keep.

    Blocks are options of their own, by their names: 0 and 1.

    Raises:
        MeasureError: if the runtime is not installed or does not take the layers.
    """
    groups = [graph.by_name[name] for name in options if name in graph.by_name]
    sizes = {group.name: group.size for group in groups} | dict.fromkeys(blocks or {}, 1)
    layers = widths_of(graph, groups, blocks)
    wanted: dict[LayerKind, tuple[set[int], set[int]]] = {}
    for layer in layers:
        kind = kind_of(layer.site)
        if kind is not None:
            sides = [_side(layer, side, options, sizes) for side in (0, 1)]
            reads, makes = wanted.setdefault(kind, (set(), set()))
            reads.update(sides[0])
            makes.update(sides[1])
    # A table is a grid: layers of one kind may ask for different widths.
    grids = {
        kind: [(n, n) for n in makes] if kind.depthwise else list(itertools.product(reads, makes))
        for kind, (reads, makes) in wanted.items()
    }
    table = measure_table(grids, deployment, batch=batch, bench=bench)
    return TableCosts(table=table, layers=layers, sizes=sizes)


def _side(
    layer: SiteWidths, side: int, options: Mapping[str, Sequence[int]], sizes: Mapping[str, int]
) -> list[int]:
    whole, parts = layer.shape[side], layer.per_unit[side]
    if len(parts) != 1:
        return list(counts_to_time(whole)) if parts else [whole]
    ((name, each),) = parts.items()
    few = options[name] if len(options[name]) <= 8 else counts_to_time(sizes[name])
    return [max(1, round(whole - each * (sizes[name] - count))) for count in (*few, sizes[name])]
