"""Removing units for real: smaller tensors, in the user's own class where that still runs.

Every removal is an edit that names a tensor, a dimension and the indices kept, so that it can
be repeated exactly on a fresh network of the original class. Where the class's own `forward`
no longer fits, one more edit changes a number it keeps, or puts its exported program in its
place; which of them, the proof decides.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.types import Edit, EditKind, Skip
from tersenet.errors import StructureError
from tersenet.graph.attributes import follow, guesses
from tersenet.graph.groups import Graph
from tersenet.graph.program import rebuilt
from tersenet.graph.proof import Reference, masked_reference
from tersenet.graph.trace import tensors_of
from tersenet.graph.walk import Walk

__all__ = ["provable", "remove", "replay"]

_OPEN: Final = ("any size", "any batch")
"""Which dimensions of its inputs a program takes in other sizes, best first."""
_UNPROVED: Final = "the smaller network cannot be proved: "


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
    return _removed(model, graph, keep, _OPEN)


def provable(
    model: nn.Module, graph: Graph, keep: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[int, ...]], list[Skip]]:
    """Returns what to keep where `remove` can prove it, all units of groups where not, and why.

    The model is left as it was.

    Raises:
        StructureError: if the request is at fault, as in `remove`.
    """
    _slices(model, graph, keep)
    smaller = {name: units for name, units in keep.items() if len(units) < graph.group(name).size}
    try:
        _removed(copy.deepcopy(model), graph, smaller, _OPEN[1:])  # any size takes a reading anew
    except StructureError:
        reasons: dict[str, str] = {}

        def failure(groups: Mapping[str, Sequence[int]]) -> str | None:
            try:
                _removed(copy.deepcopy(model), graph, groups, _OPEN[1:])
            except StructureError as error:
                return str(error).rstrip(".").removeprefix(_UNPROVED)
            return None

        _grown({}, smaller, failure, reasons)
        skips = [Skip(name, f"it cannot be proved: {why}") for name, why in reasons.items()]
        whole = {name: tuple(range(graph.group(name).size)) for name in reasons}
        return dict(keep) | whole, skips
    return dict(keep), []


def replay(model: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """Repeats edits on a network as it was before them.

    Returns:
        The network, changed in place; or, where the edits end in its exported program, that.

    Raises:
        StructureError: before anything is changed, if an edit is of another kind or does not
            fit the network.
    """
    slices = [edit for edit in edits if edit.kind == EditKind.SLICE]
    swaps = [edit for edit in edits if edit.kind == EditKind.SWAP and "swap" in edit.data]
    strange = [edit for edit in edits if edit not in slices and edit not in swaps]
    if strange:
        raise _foreign(strange[0])
    for edit in swaps:
        if edit.data["swap"] == "program":
            inputs = tuple(
                torch.zeros(one["shape"], dtype=getattr(torch, one["dtype"]))
                for one in edit.data["inputs"]
            )
            walk = Walk(
                model,
                inputs,
                outputs=edit.data["outputs"],
                any_size=edit.data["open"] == _OPEN[0],
            )
            return _program(model, walk, slices)
    _slice(model, _sliced(model, slices))
    for edit in swaps:
        setattr(model.get_submodule(edit.site), edit.data["attribute"], edit.data["value"])
    return model


def _removed(
    model: nn.Module, graph: Graph, keep: Mapping[str, Sequence[int]], opens: Sequence[str]
) -> tuple[nn.Module, list[Edit]]:
    slices = _slices(model, graph, keep)
    if not slices:
        return model, []
    walk = graph.walk
    reference = masked_reference(model, slices, walk.example, outputs=walk.outputs, walk=walk)
    numbers = _numbers(model, graph, keep, slices)
    for edits in (slices, [*slices, *numbers]) if numbers else (slices,):
        own = replay(copy.deepcopy(model), edits)
        if _failure(reference, own) is None:
            return replay(model, edits), edits
    why = None
    for opened in opens:
        try:
            program = _program(model, _opened(model, walk, opened), slices)
        except StructureError as error:
            why = str(error).rstrip(".")
            continue
        why = _failure(reference, program) or _bound(model, walk, slices, program)
        if why is None:
            return program, [*slices, _swap(model, walk, opened)]
    raise StructureError(f"{_UNPROVED}{why}.")


def _bound(
    model: nn.Module, walk: Walk, slices: Sequence[Edit], program: GraphModule
) -> str | None:
    """Returns why a program is no replacement at another batch size, where the network takes it."""
    larger = tuple(torch.cat([one, one]) if one.ndim else one for one in walk.example)
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


def _slices(model: nn.Module, graph: Graph, keep: Mapping[str, Sequence[int]]) -> list[Edit]:
    tensors = tensors_of(model)
    gone = graph.removed(keep)
    notes: dict[tuple[str, int], list[str]] = {}
    for group in (graph.group(name) for name in keep):
        for member in group.members if group.over_kept else ():
            notes.setdefault((member.tensor, member.dim), []).extend(group.changes)
    shapes = {name: list(tensors[name].shape) for name, _ in gone}
    edits = []
    order = {name: place for place, name in enumerate(graph.shapes)}
    for name, dim in sorted(gone, key=lambda key: (order[key[0]], key[1])):
        kept = [i for i in range(shapes[name][dim]) if i not in gone[name, dim]]
        before = _text(shapes[name])
        shapes[name][dim] = len(kept)
        data: dict[str, Any] = {"dim": dim, "keep": kept}
        if (name, dim) in notes:
            data["over_kept"] = sorted(set(notes[name, dim]))
        edits.append(
            Edit(
                site=name,
                kind=EditKind.SLICE,
                before=before,
                after=_text(shapes[name]),
                data=data,
            )
        )
    return edits


def _numbers(
    model: nn.Module, graph: Graph, keep: Mapping[str, Sequence[int]], slices: Sequence[Edit]
) -> list[Edit]:
    """Returns edits of whole numbers in the user's own modules that the slices explain."""
    tensors = tensors_of(model)
    changes: dict[str, dict[int, int]] = {}
    for edit in slices:
        size = tensors[edit.site].shape[edit.data["dim"]]
        changes.setdefault(edit.site, {})[size] = len(edit.data["keep"])
    for name, units in keep.items():
        group = graph.group(name)
        for member in group.members:
            if member.tensor in changes:
                changes[member.tensor].setdefault(group.size, len(units))
    return [
        Edit(
            site=site,
            kind=EditKind.SWAP,
            before=f"{name} = {old}",
            after=f"{name} = {new}",
            data={"swap": "number", "attribute": name, "value": new},
        )
        for site, name, old, new in guesses(model, changes)
        if old != new
    ]


def _swap(model: nn.Module, walk: Walk, opened: str) -> Edit:
    inputs = [
        {"shape": list(one.shape), "dtype": str(one.dtype).removeprefix("torch.")}
        for one in walk.example
    ]
    return Edit(
        site="",
        kind=EditKind.SWAP,
        before=type(model).__name__,
        after=f"its exported program, for {opened}",
        data={
            "swap": "program",
            "open": opened,
            "inputs": inputs,
            "outputs": None if walk.outputs is None else list(walk.outputs),
        },
    )


def _opened(model: nn.Module, walk: Walk, opened: str) -> Walk:
    if opened == _OPEN[0]:
        return Walk(model, walk.example, outputs=walk.outputs, any_size=True)
    return walk


def _program(model: nn.Module, walk: Walk, slices: Sequence[Edit]) -> GraphModule:
    sliced = _sliced(model, slices)
    module = rebuilt(model, walk, slices)
    _slice(module, sliced)
    return module


def _slice(model: nn.Module, sliced: Mapping[int, tuple[Tensor, Tensor]]) -> None:
    """Puts new tensors in place of old ones; modules' own records of their sizes follow."""
    touched: dict[nn.Module, None] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):  # noqa: SLF001 (setattr would re-register)
            for name, tensor in store.items():
                if tensor is not None and id(tensor) in sliced:
                    cast("dict[str, Any]", store)[name] = sliced[id(tensor)][1]
                    touched[module] = None
    for module in touched:
        follow(module)


def _sliced(model: nn.Module, edits: Sequence[Edit]) -> dict[int, tuple[Tensor, Tensor]]:
    """Returns the old and the new tensor by the old one's identity: tied weights stay tied."""
    tensors = tensors_of(model)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for edit in edits:
        if edit.site not in tensors:
            raise _foreign(edit)
        old = tensors[edit.site]
        new = found.get(id(old), (old, old))[1]
        dim, keep = edit.data["dim"], edit.data["keep"]
        fits = _text(new.shape) == edit.before and keep and 0 <= min(keep) <= max(keep)
        if not fits or max(keep) >= new.shape[dim]:
            raise StructureError(
                f"'{edit.site}' is {_text(new.shape)} where the edit expects {edit.before}: "
                "replay edits on the architecture that they were made on."
            )
        found[id(old)] = (old, new.detach().index_select(dim, torch.tensor(keep).to(new.device)))
    return {
        key: (old, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
        for key, (old, new) in found.items()
    }


def _foreign(edit: Edit) -> StructureError:
    return StructureError(
        f"the edit '{edit.kind} {edit.site}' does not belong to this network: replay edits on "
        "the architecture that they were made on."
    )


def _text(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
