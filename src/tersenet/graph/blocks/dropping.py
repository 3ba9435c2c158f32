"""Dropping blocks for real: modules are gone, and what stands in for them computes nothing."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tersenet.core.types import Edit, EditKind
from tersenet.errors import StructureError
from tersenet.graph.blocks.search import find_blocks
from tersenet.graph.blocks.stand_ins import STAND_INS, StandIn, swap_
from tersenet.graph.blocks.widths import equal_widths
from tersenet.graph.edits import replay
from tersenet.graph.flow import trace
from tersenet.graph.surgery import remove

__all__ = ["drop", "drop_blocks", "replay_removals"]


def drop_blocks(model: nn.Module, names: Sequence[str], example: tuple[Tensor, ...]) -> list[Edit]:
    """Drops blocks of `find_blocks` by name, in place, and returns the edits, slices first.

    Raises:
        StructureError: if the channels of layers to drop cannot be made equal.
    """
    known = {block.name: block for block in find_blocks(model, example, tried=False).blocks}
    chosen = [known[name] for name in names]
    slices: list[Edit] = []
    widths = [block.width for block in chosen if block.width]
    if any(width.unequal for width in widths):
        graph = trace(model, example)
        # Those that are equal too: a neighbour that shrinks what they read shrinks what they make.
        keep = equal_widths(graph, widths)
        same, slices = remove(model, graph, keep)
        if same is not model:
            raise StructureError(
                f"without {', '.join(names)} the network's own forward() no longer fits: add "
                "layers that change the number of channels to skip."
            )
    return [*slices, *drop(model, {block.name: block.swaps for block in chosen})]


def drop(model: nn.Module, blocks: Mapping[str, Mapping[str, StandIn]]) -> list[Edit]:
    """Drops the modules of each block by its name, in place, and returns the edits."""
    edits = [
        Edit(
            site=site,
            kind=EditKind.DROP,
            before=_text(model.get_submodule(site)),
            after=by,
            data={"block": name},
        )
        for name, swaps in blocks.items()
        for site, by in swaps.items()
    ]
    _drop(model, edits)
    return edits


def replay_removals(model: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """Repeats slices, then drops, on a network as it was before them.

    Returns:
        The network, changed in place; or, where the slices end in its exported program, that.

    Raises:
        StructureError: if an edit is of another kind or does not fit the network.
    """
    model = replay(model, [edit for edit in edits if edit.kind is not EditKind.DROP])
    _drop(model, [edit for edit in edits if edit.kind is EditKind.DROP])
    return model


def _drop(model: nn.Module, edits: Sequence[Edit]) -> None:
    known = dict(model.named_modules())
    for edit in edits:
        if edit.site not in known or edit.after not in STAND_INS:
            raise StructureError(
                f"the edit '{edit.kind} {edit.site}' does not belong to this network: replay "
                "edits on the architecture that they were made on."
            )
    swap_(model, {edit.site: edit.after for edit in edits})


def _text(module: nn.Module) -> str:
    count = sum(parameter.numel() for parameter in module.parameters())
    return f"{type(module).__name__} of {count:,} parameters"
