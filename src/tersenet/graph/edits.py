"""Edits as plain data: made from the units to keep, and repeated on a network.

Each names a tensor, a dimension and the indices kept, so that a removal can be repeated exactly
on a fresh network of the original class. Where its `forward` no longer fits, one more edit
changes a number it keeps, or puts its exported program in its place.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule

from tersenet.core.edit import shape_text
from tersenet.core.types import Edit, EditKind
from tersenet.errors import StructureError
from tersenet.graph.attributes import follow, guesses
from tersenet.graph.computed import length_left
from tersenet.graph.groups import Graph
from tersenet.graph.program import labels_in, rebuilt
from tersenet.graph.program_layers import restore_layers
from tersenet.graph.trace import tensors_of
from tersenet.graph.walk import Walk

__all__ = ["number_edits", "program_edit", "replay", "sized", "slice_edits"]


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
            return sized(model, _walk(model, edit), slices)
    _slice(model, _sliced(model, slices))
    for edit in swaps:
        setattr(model.get_submodule(edit.site), edit.data["attribute"], edit.data["value"])
    return model


def slice_edits(model: nn.Module, graph: Graph, keep: Mapping[str, Sequence[int]]) -> list[Edit]:
    """Returns the slices that leave only the named units of each group.

    Raises:
        StructureError: if a group is unknown or fixed, or would lose all its units.
    """
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
        shape = tuple(shapes[name])
        shapes[name][dim] = len(kept)
        data: dict[str, Any] = {"dim": dim, "keep": kept}
        if name in graph.walk.lengths:
            data["length"] = graph.walk.lengths[name]
        if (name, dim) in notes:
            data["over_kept"] = sorted(set(notes[name, dim]))
        edits.append(
            Edit(
                site=name,
                kind=EditKind.SLICE,
                before=shape_text(shape),
                after=shape_text(shapes[name]),
                shape=shape,
                data=data,
            )
        )
    return edits


def number_edits(
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


def program_edit(model: nn.Module, walk: Walk) -> Edit:
    """Returns the edit that puts the program of `walk` in the network's place."""
    inputs = [
        {"shape": list(one.shape), "dtype": str(one.dtype).removeprefix("torch.")}
        for one in walk.example
    ]
    size = any(walk.further)
    return Edit(
        site="",
        kind=EditKind.SWAP,
        before=type(model).__name__,
        after=f"its exported program, for any {'size' if size else 'batch'}",
        data={
            "swap": "program",
            "open": [list(own) for own in walk.further],
            "inputs": inputs,
            "outputs": None if walk.outputs is None else list(walk.outputs),
        },
    )


def _walk(model: nn.Module, edit: Edit) -> Walk:
    inputs = tuple(
        torch.zeros(one["shape"], dtype=getattr(torch, one["dtype"])) for one in edit.data["inputs"]
    )
    return Walk(model, inputs, outputs=edit.data["outputs"], further=edit.data["open"])


def sized(model: nn.Module, walk: Walk, slices: Sequence[Edit]) -> GraphModule:
    """Returns the exported program with the slices made; the model is changed."""
    sliced = _sliced(model, slices)
    module = rebuilt(model, walk, slices)
    _slice(module, sliced)
    values = labels_in(module, walk)

    def rank(node: fx.Node) -> int | None:
        value = values(node)
        return len(value) if isinstance(value, tuple) else None

    restore_layers(module, rank)
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
        fits = tuple(new.shape) == edit.shape and keep and 0 <= min(keep) <= max(keep)
        if not fits or max(keep) >= new.shape[dim]:
            raise StructureError(
                f"'{edit.site}' is {shape_text(new.shape)} where the edit expects "
                f"{shape_text(edit.shape)}: "
                "replay edits on the architecture that they were made on."
            )
        found[id(old)] = (old, new.detach().index_select(dim, torch.tensor(keep).to(new.device)))
    _shorten(tensors, edits, found)
    return {
        key: (old, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
        for key, (old, new) in found.items()
    }


def _shorten(
    tensors: Mapping[str, Tensor], edits: Sequence[Edit], found: dict[int, tuple[Tensor, Tensor]]
) -> None:
    """Makes lengths in `found` those of what is left of the directions that were sliced."""
    for last in {edit.site: edit for edit in edits if "length" in edit.data}.values():
        if last.data["length"] not in tensors:
            raise _foreign(last)
        old = tensors[last.data["length"]]
        whole, left = found[id(tensors[last.site])]
        g = found.get(id(old), (old, old))[1]
        for edit in edits:  # of the filters that go, no length is left
            if edit.site == last.site and old.ndim and old.shape[edit.data["dim"]] > 1:
                keep = torch.tensor(edit.data["keep"]).to(whole.device)
                whole = whole.index_select(edit.data["dim"], keep)
        found[id(old)] = (old, length_left(g, whole, left))


def _foreign(edit: Edit) -> StructureError:
    return StructureError(
        f"the edit '{edit.kind} {edit.site}' does not belong to this network: replay edits on "
        "the architecture that they were made on."
    )
