"""Blocks: what can be dropped from a network whole, read from its graph and not from names.

A residual branch, where the block's input and output have one shape: the shortcut stays. A layer
of a plain chain with its norm and activation: its input takes the place of its output. A layer
that only changes the number of channels can go too, once the channels are made equal.
"""

import copy
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor, nn

from tersenet.core.types import Skip
from tersenet.errors import StructureError
from tersenet.graph.blocks.finder import Block, BlockFinder
from tersenet.graph.blocks.program import Program, outputs_of
from tersenet.graph.blocks.stand_ins import swap_
from tersenet.graph.blocks.widths import Width, equal_widths
from tersenet.graph.flow import trace
from tersenet.graph.groups import Graph
from tersenet.graph.proof.comparison import difference

__all__ = ["Block", "Blocks", "find_blocks"]

_AGREE: Final = 1e-4
"""Relative difference below which two ways to compute one thing agree, in either precision."""


@final
@dataclass(frozen=True, kw_only=True)
class Blocks:
    """What can be dropped from a network, in the order of execution, and what cannot."""

    blocks: tuple[Block, ...]
    skips: tuple[Skip, ...]
    """Blocks and layers that stay, and why."""


def find_blocks(model: nn.Module, example: tuple[Tensor, ...], *, tried: bool = True) -> Blocks:
    """Returns what can be dropped; the network is left as it was.

    Each block is tried: without it, a copy of the network runs on the example and computes what
    the graph with that branch at zero, or that output replaced by the input, computes. Not those
    whose channels have yet to be made equal; for them the surplus must be removable.

    Args:
        model: the network.
        example: its inputs, the first dimension of each the sample.
        tried: without, blocks are only read from the graph: for those known to work.

    Raises:
        StructureError: if the network cannot be exported.
    """
    own: nn.Module = copy.deepcopy(model).eval()
    finder = BlockFinder(own, Program(own, example))
    found = [*finder.residual(), *finder.layers()]
    order = {node.name: place for place, node in enumerate(finder.flow.nodes)}
    found.sort(key=lambda block: order[block.exit])
    if not tried:
        return Blocks(blocks=tuple(found), skips=tuple(finder.skips))
    unequal = any(block.width and block.width.unequal for block in found)
    graph = trace(own, example) if unequal else None
    kept = []
    for block in found:
        if graph and block.width and block.width.unequal:
            reason = _why_unequal(graph, block.width)
        else:
            reason = _why_not(own, finder.program, block, example)
        if reason is None:
            kept.append(block)
        else:
            finder.skips.append(Skip(block.name, reason))
    return Blocks(blocks=tuple(kept), skips=tuple(finder.skips))


def _why_not(
    own: nn.Module, program: Program, block: Block, example: tuple[Tensor, ...]
) -> str | None:
    program.instead = block.instead
    expected = outputs_of(program, example)
    away = {name: own.get_submodule(name) for name in block.swaps}
    try:
        swap_(own, block.swaps)
        found = outputs_of(own, example)
    except Exception as error:  # noqa: BLE001 (forward() is the user's: it may raise anything)
        line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        return f"forward() does not run without it: {line}"
    finally:
        for name, module in away.items():
            own.set_submodule(name, module)
    if difference(found, expected) > _AGREE:
        return "forward() computes something else without it than the graph says it should"
    return None


def _why_unequal(graph: Graph, width: Width) -> str | None:
    try:
        equal_widths(graph, [width])
    except StructureError:
        reads, makes = width.channels
        return f"it reads {reads} channels and makes {makes}, and the surplus must stay"
    return None
