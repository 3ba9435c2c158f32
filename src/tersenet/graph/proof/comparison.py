"""Proof that a smaller network is the original with the removed units zeroed."""

import contextlib
import math
from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tersenet.core.types import Edit, Proof
from tersenet.errors import StructureError
from tersenet.graph.proof.reference import masked, over_kept
from tersenet.graph.reading import at_least_two, evaluating, twin, user_line
from tersenet.graph.walk import Walk, wanted_leaves

__all__ = ["Reference", "compare", "difference", "masked_reference", "prove"]

_TOLERANCE: Final = 1e-5


def prove(
    before: nn.Module,
    after: nn.Module,
    edits: Sequence[Edit],
    inputs: tuple[Tensor, ...],
    *,
    outputs: Sequence[str] | None = None,
) -> Proof:
    """Compares the smaller network with the original whose removed entries are zero.

    Works from the edits alone, not from the structure they were derived from. A removed
    channel's batch norm has zero scale, shift and statistics, so it yields zero. Norms and
    means that the edits declare to run over the kept channels do so in the original too.
    Computed in float64 where the network allows it, so that rounding does not blur the
    comparison; neither network is changed.

    Args:
        before: the original.
        after: the smaller network.
        edits: what was done.
        inputs: what to compare on.
        outputs: globs of the outputs to compare, as for `trace`; None compares all.

    Returns:
        The proof. An effect of zero means the removed units did not matter on these inputs, so
        that it could not have failed; its claim then says so.

    Raises:
        StructureError: if an edit is no slice, or the smaller network does not run.
    """
    return masked_reference(before, edits, inputs, outputs=outputs).against(after)


def compare(
    before: nn.Module,
    reference: nn.Module,
    after: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    claim: str,
    removed: str = "removed units",
) -> Proof:
    """Compares a smaller network with what it should compute.

    In float64 where the networks allow it; none of them is changed.

    Args:
        before: the original.
        reference: the original with what was removed made ineffective.
        after: the smaller network.
        inputs: to run all three on.
        claim: what holds if the last two agree.
        removed: what was, a plural.

    Raises:
        StructureError: if the smaller network does not run.
    """
    return Reference(before, reference, inputs, claim=claim, removed=removed).against(after)


def masked_reference(
    before: nn.Module,
    edits: Sequence[Edit],
    inputs: tuple[Tensor, ...],
    *,
    outputs: Sequence[str] | None = None,
    walk: Walk | None = None,
) -> "Reference":
    """Returns what `prove` compares with; `walk` is the original's structure where at hand."""
    slices = [edit for edit in edits if "swap" not in edit.data]
    zeroed = masked(before, slices)
    claim = "the smaller network equals the original with the removed units zeroed"
    changes = sorted({change for edit in slices for change in edit.data.get("over_kept", ())})
    if changes:
        claim += f", where its meaning changes: {'; '.join(changes)}"
    if any("over_kept" in edit.data for edit in slices):
        inputs = at_least_two(inputs)
        walk = walk or Walk(before, inputs, outputs=outputs)
        zeroed = over_kept(before, walk, slices)
    if walk is not None and walk.path is not None:
        claim += ", on the path that forward() takes with these inputs"
    return Reference(before, zeroed, inputs, claim=claim, outputs=outputs)


@final
class Reference:
    """What the original gives, and what it should give once smaller."""

    def __init__(
        self,
        before: nn.Module,
        reference: nn.Module,
        inputs: tuple[Tensor, ...],
        *,
        claim: str,
        removed: str = "removed units",
        outputs: Sequence[str] | None = None,
    ) -> None:
        """Runs both; neither is changed."""
        self._networks = (before, reference)
        self._inputs, self._outputs = inputs, outputs
        self._claim, self._removed = claim, removed
        double: tuple[list[Tensor], list[Tensor]] | None = None
        with contextlib.suppress(Exception):  # a forward() may make float32 tensors of its own
            double = self._both(torch.float64)
        # Float32's least number as a mask, say, overflows where float64 is made float32 again.
        if double and any(bool(tensor.isnan().any()) for found in double for tensor in found):
            double = None
        self._double = double
        self._single = None if double else self._in_single()

    def against(self, after: nn.Module) -> Proof:
        """Returns the proof of a smaller network. Raises StructureError if it does not run."""
        found, both, precision = None, self._double, "float64"
        if both is not None:
            with contextlib.suppress(Exception):  # whatever a forward() raises: told below
                found = self._run(twin(after).double(), torch.float64)
        if both is None or found is None:
            found = self._run_smaller(after)
            both = self._single = self._single or self._in_single()
            precision = "float32"
        original, reference = both
        effect = difference(original, reference)
        claim = f"{self._claim} ({precision}, {len(self._inputs[0])} samples)"
        if effect == 0:
            claim += f"; the {self._removed} have no effect on these inputs, so this shows nothing"
        error = difference(found, reference)
        return Proof(claim=claim, max_error=error, tolerance=_TOLERANCE, effect=effect)

    def _in_single(self) -> tuple[list[Tensor], list[Tensor]]:
        try:
            return self._both(torch.float32)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise StructureError(
                f"the network does not run with the {self._removed} zeroed ({lines[0].rstrip('.')}"
                f"{user_line(error)}): what it does with data depends on them, add them to skip."
            ) from error

    def _both(self, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        # Copies: a forward() may keep what it saw.
        before, reference = (twin(network).to(dtype) for network in self._networks)
        return self._run(before, dtype), self._run(reference, dtype)

    def _run(self, model: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        inputs = self._inputs
        if dtype == torch.float64:
            inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
        with evaluating(model), torch.no_grad():
            outputs = model(*(x.clone() for x in inputs))
        leaves, spec = pytree.tree_flatten(outputs)
        wanted = wanted_leaves(spec, self._outputs)
        return [leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and i in wanted]

    def _run_smaller(self, model: nn.Module) -> list[Tensor]:
        try:
            return self._run(twin(model), torch.float32)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise StructureError(
                f"the smaller network does not run ({lines[0].rstrip('.')}{user_line(error)}): its "
                "forward() holds a size that no longer fits; add the sites that it concerns to "
                "skip."
            ) from error


def difference(found: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Returns the largest difference relative to the largest reference; inf if shapes differ."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in reference]:
        return float("inf")
    worst = 0.0
    for mine, theirs in zip(found, reference, strict=True):
        if theirs.numel():
            own, other = mine.double(), theirs.double()
            error = (own - other).abs().masked_fill(own == other, 0).max()  # equal infinities too
            scale = other.abs().masked_fill(other.isinf(), 0).max()
            ratio = float(error / scale) if scale > 0 else float("inf" if error > 0 else 0)
            worst = max(worst, float("inf") if math.isnan(ratio) else ratio)  # NaN proves nothing
    return worst
