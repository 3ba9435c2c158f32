"""What dropping layers decides, and how it is done and repeated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from tersenet.core.types import Edit, EditKind, Skip
from tersenet.errors import StructureError
from tersenet.graph import remove, replay, trace
from tersenet.prune.blocks import find_blocks
from tersenet.prune.dropping import drop, replay_drops
from tersenet.prune.widths import equal_widths

__all__ = ["LayerPlan", "drop_blocks", "replay_edits"]


@final
@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """The layers that go, and what that costs and saves."""

    criterion: str
    scores: dict[str, float]
    """Of every layer considered, in the order of execution."""
    removed: tuple[str, ...]
    """Those that go, least score first."""
    params: tuple[int, int]
    """Before and after."""
    macs: tuple[int, int]
    """Of one sample, before and after."""
    skips: tuple[Skip, ...] = ()

    @property
    def summary(self) -> str:
        """One line for a person."""
        (params, fewer_params), (macs, fewer_macs) = self.params, self.macs
        return (
            f"layers by {self.criterion}: {len(self.removed)} of {len(self.scores)} go "
            f"({', '.join(self.removed) or 'none'}); parameters {params:,} → {fewer_params:,}, "
            f"MACs {macs:,} → {fewer_macs:,}"
        )


def drop_blocks(model: nn.Module, names: Sequence[str], example: tuple[Tensor, ...]) -> list[Edit]:
    """Drops blocks of `find_blocks` by name, in place, and returns the edits, slices first.

    Raises:
        StructureError: if the channels of layers to drop cannot be made equal.
    """
    blocks = {block.name: block for block in find_blocks(model, example, tried=False).blocks}
    chosen = [blocks[name] for name in names]
    edits: list[Edit] = []
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
        edits += slices
    return edits + drop(model, {block.name: block.swaps for block in chosen})


def replay_edits(model: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """Repeats slices, then drops, and returns the network; other edits are of values alone."""
    model = replay(model, [edit for edit in edits if edit.kind is EditKind.SLICE])
    return replay_drops(model, [edit for edit in edits if edit.kind is EditKind.DROP])
