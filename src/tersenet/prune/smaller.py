"""A network with fewer units, and without the blocks that go."""

from collections.abc import Mapping, Sequence

from torch import nn

from tersenet.core.types import Edit
from tersenet.errors import StructureError
from tersenet.graph import Graph, remove
from tersenet.graph.blocks import Block, drop

__all__ = ["smaller_network"]


def smaller_network(
    model: nn.Module,
    graph: Graph,
    keep: Mapping[str, Sequence[int]],
    blocks: Sequence[Block] = (),
) -> tuple[nn.Module, Sequence[Edit]]:
    """Returns `model`, or what takes its place, with these units and no such blocks; the edits.

    Raises:
        StructureError: if blocks are to go from a network whose own class no longer fits.
    """
    less = {name: units for name, units in keep.items() if len(units) < graph.by_name[name].size}
    smaller, edits = remove(model, graph, less)
    if blocks and smaller is not model:
        raise StructureError(
            "the network's own forward() does not fit fewer channels, so no block can go from it "
            "as well: set blocks to false."
        )
    return smaller, [*edits, *drop(smaller, {block.name: block.swaps for block in blocks})]
