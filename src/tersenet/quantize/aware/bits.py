"""How many bits each layer's weight and input have, and where that makes a value two."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Final, final

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch.fx import GraphModule

from tersenet.core.selection import check_patterns, first_match
from tersenet.export.tracing import operand
from tersenet.quantize.graph.copies import copied, copy_name, readers
from tersenet.quantize.graph.structure import ACTIVATIONS, Value, WeightSite, values_of

__all__ = ["CARRIED", "Bits", "Placed", "place", "site_bits", "values_at"]

CARRIED: Final = 8
"""Bits of activations that are added, pooled or returned: what low bits are read from."""


@final
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Bits:
    """Of one layer."""

    weight: int = Field(default=8, ge=1, le=8)
    activation: int = Field(default=8, ge=1, le=8)
    """Of what the layer reads."""


@final
@plain_dataclass(frozen=True, kw_only=True)
class Placed:
    """Where one activation is quantised: by the name of a graph's node."""

    name: str
    node: str
    """The node whose output it is."""
    bits: int
    layer: str | None = None
    """Where it is one layer's own copy, beside a value of more bits that others read: its node."""
    signs: bool = False
    """Whether it is +1 and −1."""


def site_bits(
    names: Sequence[str], inner: Bits, *, edge_bits: int, overrides: Mapping[str, Bits]
) -> dict[str, Bits]:
    """Returns the bits of each layer: of the first pattern that matches it, else its place's.

    Args:
        names: of the layers, in the order they run.
        inner: of all but the first and the last.
        edge_bits: of the first and the last, weights and inputs: few weights, much harm.
        overrides: by glob, or regular expression after `re:`.

    Raises:
        StructureError: if a pattern matches no layer.
    """
    check_patterns("quantize aware", {"overrides": overrides}, "layers", names)
    edge, edges = Bits(weight=edge_bits, activation=edge_bits), {names[0], names[-1]}
    return {
        name: first_match(overrides.items(), name) or (edge if name in edges else inner)
        for name in names
    }


def place(
    module: GraphModule,
    sites: Sequence[WeightSite],
    bits: Mapping[str, Bits],
    *,
    signs: bool = False,
) -> list[Placed]:
    """Returns the activations of a folded graph to quantise, and in how many bits.

    A value that layers alone read, all in as many bits, has so many. One that is also added or
    pooled is carried in 8, and each layer that wants fewer reads its own copy: a shortcut's sum
    in two bits would be the end of it.

    Args:
        module: the graph.
        sites: the layers to quantise.
        bits: of each.
        signs: have one bit be a sign, read before the ReLU: after it there is but one.
    """
    placed, own_copy = [], set[str]()
    for value in values_of(module, sites):
        layers, others = readers(value, sites)
        inside = {site.name for site in layers}
        wanted = {bits[name].activation for name in inside}
        alone = not others and len(wanted) == 1
        if alone and not (signs and wanted == {1}):
            placed.append(Placed(name=value.name, node=value.node.name, bits=wanted.pop()))
            continue
        if not alone:
            placed.append(Placed(name=value.name, node=value.node.name, bits=CARRIED))
        own_copy |= {name for name in inside if bits[name].activation < CARRIED}
    for site in sites:
        if site.name in own_copy:
            source, own = operand(site.node, 0), bits[site.name].activation
            if signs and own == 1 and source.target in ACTIVATIONS:
                source = operand(source, 0)
            copy = Placed(
                name=copy_name(site.name),
                node=source.name,
                bits=own,
                layer=site.node.name,
                signs=signs and own == 1,
            )
            placed.append(copy)
    return placed


def values_at(module: GraphModule, placed: Iterable[Placed]) -> list[Value]:
    """Returns `placed` as values of a graph of the same network, in which copies are made."""
    nodes = {node.name: node for node in module.graph.nodes}
    return [
        Value(name=spot.name, node=nodes[spot.node])
        if spot.layer is None
        else copied(module, spot.name, nodes[spot.layer], nodes[spot.node])
        for spot in placed
    ]
