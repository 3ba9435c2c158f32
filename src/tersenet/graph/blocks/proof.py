"""Proof that a network without some blocks is the original with those blocks made ineffective."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from tersenet.core.types import Edit, EditKind, Proof
from tersenet.errors import StructureError
from tersenet.graph.blocks.program import Program
from tersenet.graph.blocks.search import find_blocks
from tersenet.graph.edits import replay
from tersenet.graph.proof.comparison import compare, prove

__all__ = ["prove_drops"]


def prove_drops(
    before: nn.Module, after: nn.Module, edits: Sequence[Edit], inputs: tuple[Tensor, ...]
) -> tuple[Proof, ...]:
    """Compares a network without some blocks with the original, run value by value.

    There a residual block's branch is zero, and a layer's input takes the place of its output.
    Where channels were made equal first, that is proved on its own, as for any slices.

    Raises:
        StructureError: if an edit is neither a slice nor the drop of a block of this network, or
            the smaller network does not run.
    """
    drops = [edit for edit in edits if edit.kind is EditKind.DROP]
    slices = [edit for edit in edits if edit.kind is not EditKind.DROP]
    proofs: list[Proof] = []
    if slices:
        equal = replay(copy.deepcopy(before), slices)
        proofs.append(prove(before, equal, slices, inputs))
        before = equal
    blocks = {block.name: block for block in find_blocks(before, inputs, tried=False).blocks}
    names = dict.fromkeys(edit.data.get("block", edit.site) for edit in drops)
    for edit in drops:
        if edit.data.get("block") not in blocks:
            raise StructureError(f"'{edit.kind} {edit.site}' cannot be proved: it drops no block.")
    reference = Program(copy.deepcopy(before), inputs)
    reference.instead = {key: by for name in names for key, by in blocks[name].instead.items()}
    kinds = {blocks[name].kind for name in names}
    what = " and ".join(
        text
        for kind, text in (
            ("residual", "the branches of the dropped blocks zeroed"),
            ("layer", "the outputs of the dropped layers replaced by their inputs"),
        )
        if kind in kinds
    )
    claim = f"the smaller network equals the original with {what}"
    shown = compare(before, reference, after, inputs, claim=claim, removed="dropped blocks")
    return (*proofs, shown)
