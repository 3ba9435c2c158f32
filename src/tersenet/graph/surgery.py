"""Removing units for real: smaller tensors in the user's own modules.

Every removal is an edit that names a tensor, a dimension and the indices kept, so that it can
be repeated exactly on a fresh network of the original class.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from tersenet.core.types import Edit, EditKind
from tersenet.errors import StructureError
from tersenet.graph.groups import Graph
from tersenet.graph.trace import tensors_of

__all__ = ["remove", "replay"]


def remove(model: nn.Module, graph: Graph, keep: Mapping[str, Sequence[int]]) -> list[Edit]:
    """Keeps only the named units of each group, in place.

    Args:
        model: the network that `graph` was traced from, or a copy of it.
        graph: its structure.
        keep: for each group to shrink, the units that stay.

    Returns:
        One edit per tensor and dimension, in the order they were made.

    Raises:
        StructureError: before anything is changed, if a group is unknown or fixed, or would
            lose all its units.
    """
    tensors = tensors_of(model)
    gone = graph.removed(keep)
    shapes = {name: list(tensors[name].shape) for name, _ in gone}
    edits = []
    order = {name: place for place, name in enumerate(graph.shapes)}
    for name, dim in sorted(gone, key=lambda key: (order[key[0]], key[1])):
        kept = [i for i in range(shapes[name][dim]) if i not in gone[name, dim]]
        before = _text(shapes[name])
        shapes[name][dim] = len(kept)
        edits.append(
            Edit(
                site=name,
                kind=EditKind.SLICE,
                before=before,
                after=_text(shapes[name]),
                data={"dim": dim, "keep": kept},
            )
        )
    replay(model, edits)
    return edits


def replay(model: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """Repeats slices on a network as it was before them, in place; returns it.

    Raises:
        StructureError: before anything is changed, if an edit is of another kind or does not
            fit the network.
    """
    sliced = _sliced(model, edits)
    touched: dict[nn.Module, None] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):  # noqa: SLF001 (setattr would re-register)
            for name, tensor in store.items():
                if tensor is not None and id(tensor) in sliced:
                    cast("dict[str, Any]", store)[name] = sliced[id(tensor)][1]
                    touched[module] = None
    for module in touched:
        for kind in type(module).__mro__:
            if kind in _ATTRIBUTES:
                _ATTRIBUTES[kind](module)
                break
    return model


def _sliced(model: nn.Module, edits: Sequence[Edit]) -> dict[int, tuple[Tensor, Tensor]]:
    """Returns the old and the new tensor by the old one's identity: tied weights stay tied."""
    tensors = tensors_of(model)
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for edit in edits:
        if edit.kind != EditKind.SLICE or edit.site not in tensors:
            raise StructureError(
                f"the edit '{edit.kind} {edit.site}' does not belong to this network: replay "
                "edits on the architecture that they were made on."
            )
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


def _convolution(module: nn.Module) -> None:
    conv = cast("nn.Conv2d", module)
    filters, reads = conv.weight.shape[:2]
    if conv.groups > 1 and conv.in_channels == conv.groups:  # depthwise: whole groups went
        conv.groups = filters // (conv.out_channels // conv.groups)
    conv.in_channels, conv.out_channels = reads * conv.groups, filters


def _transposed(module: nn.Module) -> None:
    conv = cast("nn.ConvTranspose2d", module)
    conv.in_channels = conv.weight.shape[0]
    conv.out_channels = conv.weight.shape[1] * conv.groups


def _linear(module: nn.Module) -> None:
    linear = cast("nn.Linear", module)
    linear.out_features, linear.in_features = linear.weight.shape


def _embedding(module: nn.Module) -> None:
    table = cast("nn.Embedding", module)
    table.num_embeddings, table.embedding_dim = table.weight.shape


def _norm(module: nn.Module) -> None:
    norm = cast("nn.BatchNorm2d", module)
    sizes = [*norm.parameters(), *norm.buffers()]
    norm.num_features = next(len(one) for one in sizes if one.ndim)


def _prelu(module: nn.Module) -> None:
    prelu = cast("nn.PReLU", module)
    prelu.num_parameters = len(prelu.weight)


_ATTRIBUTES: Final[dict[type[nn.Module], Callable[[nn.Module], None]]] = {
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.ConvTranspose1d: _transposed,
    nn.ConvTranspose2d: _transposed,
    nn.ConvTranspose3d: _transposed,
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.modules.batchnorm._NormBase: _norm,  # noqa: SLF001 (the base of all batch norms)
    nn.PReLU: _prelu,
}
"""How a module's own record of its sizes follows its tensors."""


def _text(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
