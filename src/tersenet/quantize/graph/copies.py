"""A layer's own copy, in fewer bits, of a value that is also added, pooled or returned.

A residual network's sum loses at every addition, so that few bits there would be the end of it: it
is carried in more, and each layer that wants fewer reads a copy. The bits that are published of
networks at 4 and fewer are those of what layers read, too.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch.fx import GraphModule, Node

from tersenet.export.tracing import operand
from tersenet.quantize.graph.structure import Value, WeightSite, passes

__all__ = ["carried_values", "copied", "copy_name", "erase_copies", "is_copy", "readers"]

_COPY: Final = torch.ops.aten.positive.default
"""An identity that stands for a copy while values are written into a graph."""


def readers(value: Value, sites: Sequence[WeightSite]) -> tuple[list[WeightSite], bool]:
    """Returns the layers that read a value, and whether anything else does."""
    handed = {value.node, *passes(value)}
    found = {user for node in handed for user in node.users} - handed
    layers = [site for site in sites if site.node in found]
    return layers, len(layers) < len(found)


def carried_values(
    values: Sequence[Value], sites: Sequence[WeightSite]
) -> dict[str, list[WeightSite]]:
    """Returns, by the name of each value that more than layers read, the layers that read it."""
    found = {value.name: readers(value, sites) for value in values}
    return {name: layers for name, (layers, others) in found.items() if others}


def copy_name(layer: str) -> str:
    """Returns what a layer's own copy of its input is called."""
    return f"{layer}.input"


def copied(module: GraphModule, name: str, layer: Node, source: Node | None = None) -> Value:
    """Makes `layer` read an identity of `source`, or of what it reads already."""
    source = source or operand(layer, 0)
    assert isinstance(source, Node)
    with module.graph.inserting_before(layer):
        copy = module.graph.call_function(_COPY, (source,))
    copy.meta = dict(source.meta)
    layer.args = (copy, *layer.args[1:])
    return Value(name=name, node=copy)


def is_copy(node: Node) -> bool:
    """Whether a node is a layer's own copy."""
    return node.target is _COPY


def erase_copies(module: GraphModule) -> None:
    """Takes the identities out again; what was written after them stays."""
    for node in [node for node in module.graph.nodes if is_copy(node)]:
        source = operand(node, 0)
        assert isinstance(source, Node)
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)
    module.recompile()
