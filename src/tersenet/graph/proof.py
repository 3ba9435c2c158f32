"""Proof that a smaller network is the original with the removed units zeroed."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tersenet.core.types import Edit, EditKind, Proof
from tersenet.errors import StructureError
from tersenet.graph.trace import evaluating, tensors_of

__all__ = ["compare", "difference", "prove"]

_TOLERANCE = 1e-5


def prove(
    before: nn.Module, after: nn.Module, edits: Sequence[Edit], inputs: tuple[Tensor, ...]
) -> Proof:
    """Compares the smaller network with the original whose removed entries are zero.

    Works from the edits alone, not from the structure they were derived from. A removed
    channel's batch norm has zero scale, shift and statistics, so it yields zero. Computed in
    float64 where the network allows it, so that rounding does not blur the comparison; neither
    network is changed.

    Returns:
        The proof. An effect of zero means the removed units did not matter on these inputs, so
        that it could not have failed; its claim then says so.

    Raises:
        StructureError: if an edit is no slice, or the smaller network does not run.
    """
    claim = "the smaller network equals the original with the removed units zeroed"
    return compare(before, _masked(before, edits), after, inputs, claim=claim)


def compare(
    before: nn.Module,
    reference: nn.Module,
    after: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    claim: str,
) -> Proof:
    """Compares a smaller network with what it should compute.

    In float64 where the networks allow it; none of them is changed.

    Args:
        before: the original.
        reference: the original with what was removed made ineffective.
        after: the smaller network.
        inputs: to run all three on.
        claim: what holds if the last two agree.

    Raises:
        StructureError: if the smaller network does not run.
    """
    try:
        networks = [copy.deepcopy(one).double() for one in (before, reference, after)]
        original, expected, found = (
            _run(one, tuple(x.double() if x.is_floating_point() else x for x in inputs))
            for one in networks
        )
        precision = "float64"
    except (RuntimeError, ValueError, IndexError, TypeError):
        # forward() makes float32 tensors of its own, or the smaller network is at fault
        original, expected = _run(before, inputs), _run(reference, inputs)
        found, precision = _run_smaller(after, inputs), "float32"
    effect = difference(original, expected)
    claim = f"{claim} ({precision}, {len(inputs[0])} samples)"
    if effect == 0:
        claim += "; the removed units have no effect on these inputs, so this shows nothing"
    return Proof(
        claim=claim, max_error=difference(found, expected), tolerance=_TOLERANCE, effect=effect
    )


def _masked(before: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    masked = copy.deepcopy(before)
    tensors = tensors_of(masked)
    kept: dict[tuple[str, int], Tensor] = {}
    for edit in edits:
        if edit.kind != EditKind.SLICE or edit.site not in tensors:
            raise StructureError(f"'{edit.kind} {edit.site}' cannot be proved: it is no slice.")
        key = (edit.site, edit.data["dim"])
        size = tensors[edit.site].shape[edit.data["dim"]]
        # A second slice of a dimension counts from what the first one kept.
        kept[key] = kept.get(key, torch.arange(size))[torch.tensor(edit.data["keep"])]
    with torch.no_grad():
        for (name, dim), indices in kept.items():
            tensor = tensors[name]
            gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
            gone[indices] = False
            tensor.index_fill_(dim, gone.nonzero().flatten().to(tensor.device), 0)
    return masked


def _run_smaller(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    try:
        return _run(model, inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise StructureError(
            f"the smaller network does not run ({reason}): its forward() holds a size that no "
            "longer fits; add the sites that it concerns to skip."
        ) from error


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with evaluating(model), torch.no_grad():
        outputs = model(*inputs)
    return [one for one in pytree.tree_leaves(outputs) if isinstance(one, Tensor)]


def difference(found: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Returns the largest difference relative to the largest reference; inf if shapes differ."""
    if [one.shape for one in found] != [one.shape for one in reference]:
        return float("inf")
    worst = 0.0
    for own, other in zip(found, reference, strict=True):
        if other.numel():
            error = (own.double() - other.double()).abs().max()
            scale = other.double().abs().max()
            ratio = float(error / scale) if scale > 0 else float("inf" if error > 0 else 0)
            worst = max(worst, float("inf") if math.isnan(ratio) else ratio)  # NaN proves nothing
    return worst
