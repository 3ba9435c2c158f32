"""Removing units for real: smaller tensors, in the user's own class where that still runs.

Every removal is an edit that names a tensor, a dimension and the indices kept, so that it can
be repeated exactly on a fresh network of the original class. Where the class's own `forward`
no longer fits, one more edit changes a number it keeps, or puts its exported program in its
place; which of them, the proof decides.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.types import Edit, Skip
from tersenet.errors import StructureError
from tersenet.graph.edits import number_edits, program_edit, replay, sized, slice_edits
from tersenet.graph.groups import Graph
from tersenet.graph.proof.comparison import Reference, masked_reference
from tersenet.graph.proof.training import training_failure
from tersenet.graph.reading import twin
from tersenet.graph.reading.sizes import taken_sizes
from tersenet.graph.walk import Walk

__all__ = ["provable", "remove"]

_UNPROVED: Final = "the smaller network cannot be proved: "
_PATHS: Final = 3
"""Inputs on which a network is proved besides its example, where one path of it was read."""
_MOST_NODES: Final = 500
"""Of a program that is also read with its sizes open: that takes seconds for a hundred nodes."""


def remove(
    model: nn.Module, graph: Graph, keep: Mapping[str, Sequence[int]]
) -> tuple[nn.Module, list[Edit]]:
    """Keeps only the named units of each group, and proves it on the inputs of `trace`.

    Args:
        model: the network that `graph` was traced from, or a copy of it; smaller afterwards
            where its own class still runs.
        graph: its structure.
        keep: for each group to shrink, the units that stay.

    Returns:
        `model`, or a module of its exported program where its class no longer computes the
        same, and the edits in the order they were made.

    Raises:
        StructureError: before anything is changed, if a group is unknown or fixed, would lose
            all its units, or the smaller network cannot be proved.
    """
    return _removed(model, graph, keep)


def provable(
    model: nn.Module, graph: Graph, keep: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[int, ...]], list[Skip]]:
    """Returns what to keep where `remove` can prove it, all units of groups where not, and why.

    The model is left as it was.

    Raises:
        StructureError: if the request is at fault, as in `remove`.
    """
    slice_edits(model, graph, keep)
    smaller = {name: units for name, units in keep.items() if len(units) < graph.group(name).size}
    try:
        _removed(twin(model), graph, smaller, reread=False)
    except StructureError:
        reasons: dict[str, str] = {}

        def failure(groups: Mapping[str, Sequence[int]]) -> str | None:
            try:
                _removed(twin(model), graph, groups, reread=False)
            except StructureError as error:
                return str(error).rstrip(".").removeprefix(_UNPROVED)
            return None

        _grown({}, smaller, failure, reasons)
        skips = [Skip(name, f"it cannot be proved: {why}") for name, why in reasons.items()]
        whole = {name: tuple(range(graph.group(name).size)) for name in reasons}
        return dict(keep) | whole, skips
    return dict(keep), []


def _removed(
    model: nn.Module,
    graph: Graph,
    keep: Mapping[str, Sequence[int]],
    *,
    reread: bool = True,
) -> tuple[nn.Module, list[Edit]]:
    """Removes; without `reread`, no program is made for other sizes than those of the example."""
    slices = slice_edits(model, graph, keep)
    if not slices:
        return model, []
    walk = graph.walk
    reference = masked_reference(model, slices, walk.example, outputs=walk.outputs, walk=walk)
    numbers, why = number_edits(model, graph, keep, slices), None
    for edits in (slices, [*slices, *numbers]) if numbers else (slices,):
        own = replay(twin(model), edits)
        why = (
            _failure(reference, own)
            or _elsewhere(model, walk, slices, own)
            or (walk.trains_more and training_failure(model, slices, own, walk.example))
            or None
        )
        if why is None:
            return replay(model, edits), edits
    if walk.path is not None:
        raise StructureError(
            f"{_UNPROVED}{walk.path}, so that one path of it was read, and its own class fails: "
            f"{why}."
        )
    if walk.trains_more:
        raise StructureError(
            f"{_UNPROVED}its own class fails ({why}), and its program would lose what training "
            "alone computes."
        )
    if reread and (larger := _open(model, walk)) is not None:
        program, why = _program(model, larger, slices, reference)
        if program is not None:
            return program, [*slices, program_edit(model, larger)]
    program, why = _program(model, walk, slices, reference)
    if program is None:
        raise StructureError(f"{_UNPROVED}{why}.")
    return program, [*slices, program_edit(model, walk)]


def _elsewhere(model: nn.Module, walk: Walk, slices: Sequence[Edit], own: nn.Module) -> str | None:
    """Returns why a network of which one path was read fails on inputs that may take others."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(_PATHS if walk.path is not None else 0):
        inputs = tuple(_shuffled(tensor, generator) for tensor in walk.example)
        why = _failure(masked_reference(model, slices, inputs, outputs=walk.outputs), own)
        if why is not None:
            return f"on other inputs {why}"
    return None


def _shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].reshape(tensor.shape)


def _open(model: nn.Module, walk: Walk) -> Walk | None:
    """Returns the network read anew for the sizes that it takes; None where that is no gain."""
    if len(walk.program.graph.nodes) > _MOST_NODES:
        return None
    further = taken_sizes(model, walk.example)
    if not any(further):
        return None
    try:
        return Walk(model, walk.example, outputs=walk.outputs, further=further)
    except StructureError:
        return None


def _program(
    model: nn.Module, walk: Walk, slices: Sequence[Edit], reference: Reference
) -> tuple[GraphModule | None, str]:
    """Returns the network's program, proved, or None and why it is not."""
    try:
        program = sized(model, walk, slices)
    except StructureError as error:
        return None, str(error).rstrip(".")
    why = _failure(reference, program) or _bound(model, walk, slices, program)
    return (program, "") if why is None else (None, why)


def _bound(
    model: nn.Module, walk: Walk, slices: Sequence[Edit], program: GraphModule
) -> str | None:
    """Returns why a program is no replacement at another batch size, where the network takes it."""
    larger = tuple(
        torch.cat([tensor, tensor]) if tensor.ndim else tensor for tensor in walk.example
    )
    try:
        reference = masked_reference(model, slices, larger, outputs=walk.outputs, walk=walk)
    except Exception:  # noqa: BLE001 (whatever a forward() raises: it takes one size alone)
        return None
    if _failure(reference, program) is None:
        return None
    return (
        "its forward() no longer fits and its program takes one batch size alone: have forward() "
        "read the batch from x.shape[0], not from len(x) or int(…)"
    )


def _grown(
    good: dict[str, Sequence[int]],
    rest: Mapping[str, Sequence[int]],
    failure: Callable[[Mapping[str, Sequence[int]]], str | None],
    reasons: dict[str, str],
) -> dict[str, Sequence[int]]:
    """Returns `good` and what of `rest` can be proved with it, found by halving."""
    why = failure(together := good | dict(rest))
    if why is None:
        return together
    names = list(rest)
    if len(names) == 1:
        reasons[names[0]] = why
        return good
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        good = _grown(good, {name: rest[name] for name in half}, failure, reasons)
    return good


def _failure(reference: Reference, smaller: nn.Module) -> str | None:
    """Returns why a smaller network is not what it should be, or None where it is."""
    try:
        proof = reference.against(smaller)
    except StructureError as error:
        return str(error).rstrip(".")
    if proof.holds:
        return None
    return (
        f"its outputs differ from the masked original's by {proof.max_error:.2g} where "
        f"{proof.tolerance:.0e} is allowed"
    )
