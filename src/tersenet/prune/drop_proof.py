"""Proof that a network without some blocks is the original with those blocks made ineffective."""

import copy
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from tersenet.core.types import Edit, EditKind, Proof
from tersenet.errors import StructureError
from tersenet.graph import prove, replay
from tersenet.graph.proof import difference
from tersenet.prune.blocks import find_blocks
from tersenet.prune.program import Program, outputs_of

__all__ = ["prove_drops"]

_TOLERANCE: Final = 1e-5


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
    blocks = {one.name: one for one in find_blocks(before, inputs, tried=False).blocks}
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
    return (*proofs, _compared(before, reference, after, inputs, claim))


def _compared(
    before: nn.Module,
    reference: nn.Module,
    after: nn.Module,
    inputs: tuple[Tensor, ...],
    claim: str,
) -> Proof:
    networks = (before, reference, after)
    try:
        exact = tuple(x.double() if x.is_floating_point() else x for x in inputs)
        found = [outputs_of(copy.deepcopy(one).double(), exact) for one in networks]
        precision = torch.float64
    except (RuntimeError, ValueError, IndexError, TypeError):
        # forward() makes float32 tensors of its own
        found, precision = [outputs_of(one, inputs) for one in networks], torch.float32
    original, expected, smaller = found
    effect = difference(original, expected)
    claim += f" ({str(precision).removeprefix('torch.')}, {len(inputs[0])} samples)"
    if effect == 0:
        claim += "; the dropped blocks have no effect on these inputs, so this shows nothing"
    error = difference(smaller, expected)
    return Proof(claim=claim, max_error=error, tolerance=_TOLERANCE, effect=effect)
