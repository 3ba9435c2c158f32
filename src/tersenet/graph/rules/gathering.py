"""How operators that look up, sort or slide along a dimension carry labels.

Along that dimension indices mean positions, which stay. All other dimensions pass.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from tersenet.graph.labels import Value
from tersenet.graph.visit import Visit, operator_name, rule, shape_of

__all__ = ["spread"]


@rule("aten.gather", "aten.take_along_dim")
def gather(at: Visit) -> Value:
    """Looks up along one dimension, by an index that says where for each element."""
    x, index, dim = at.value("self"), at.value("index"), at.args["dim"] % len(at.shape)
    at.freeze(x[dim], "looks it up by number")
    along = spread(at.args["index"])
    outputs = list(index)
    for other in set(range(len(x))) - {dim}:
        if other in along and len(x[other]) == len(index[other]):
            outputs[other] = x[other]
        elif len(x[other]) == len(index[other]):
            at.tie(x[other], index[other])
        else:
            at.freeze(x[other], "takes the first of it")
            at.freeze(index[other], "takes the first of it")
    return tuple(outputs)


@rule("aten.scatter", "aten.scatter_", "aten.scatter_add", "aten.scatter_add_")
def scatter(at: Visit) -> Value:
    """Writes along one dimension, where an index says so for each element."""
    x, index, source = at.value("self"), at.value("index"), at.value("src")
    dim = at.args["dim"] % len(x)
    for value in (x, index, source):
        if value:
            at.freeze(value[dim], "writes into it by number")
    along = spread(at.args["index"])
    for other in set(range(len(x))) - {dim}:
        values = [source] if other in along else [index, source]
        for value in filter(None, values):
            if len(value[other]) == len(x[other]) == len(index[other]):
                at.tie(x[other], value[other])
            else:
                at.freeze(x[other], "writes into the first of it")
                at.freeze(value[other], "takes the first of it")
        if other in along and len(index[other]) != len(x[other]):
            at.freeze(x[other], "writes into the first of it")
    return x


@rule("aten.index_put", "aten.index_put_")
def index_put(at: Visit) -> Value:
    """Writes where tensors of numbers, or masks, say; dimensions without them pass."""
    x, source = at.value("self"), at.value("values")
    nodes, looked, place, dim = list(at.args["indices"]), [], None, 0
    rest = list(range(len(x)))
    for node in nodes:
        if node is None:
            dim += 1
            continue
        mask = node.meta["val"].dtype in (torch.bool, torch.uint8)
        place = dim if place is None else place
        looked.append((at.fixed(1),) if mask else at.of(node))
        for own in at.of(node) if mask else ():
            at.freeze(own, "masks with it")
        for _ in range(node.meta["val"].ndim if mask else 1):
            at.freeze(x[dim], "writes into it by number")
            rest.remove(dim)
            dim += 1
    together = rest == [*range(place or 0), *range(len(x) - len(rest) + (place or 0), len(x))]
    before = [x[own] for own in rest[: place if together else 0]]
    written = (*before, *at.broadcast(looked), *(x[own] for own in rest[len(before) :]))
    for back in range(-min(len(source), len(written)), 0):
        if len(source[back]) == len(written[back]):
            at.tie(source[back], written[back])
        else:
            at.freeze(source[back], "broadcasts it")
    return x


@rule("aten.index_add", "aten.index_add_")
def index_add(at: Visit) -> Value:
    """Adds rows in the places that a list of numbers says."""
    x, source, dim = at.value("self"), at.value("source"), at.args["dim"] % len(at.shape)
    for other, (own, added) in enumerate(zip(x, source, strict=True)):
        if other != dim:
            at.tie(own, added)
        else:
            at.freeze(own, "writes into it by number")
            at.freeze(added, "writes it by number")
    return x


@rule("aten.index_select")
def index_select(at: Visit) -> Value:
    """Picks along one dimension, by a list of numbers."""
    x, index, dim = at.value("self"), at.value("index"), at.args["dim"] % len(at.shape)
    at.freeze(x[dim], "looks it up by number")
    return (*x[:dim], *(index or (at.fixed(1),)), *x[dim + 1 :])


@rule("aten.index.Tensor")
def index(at: Visit) -> Value | list[Value] | None:
    """Looks up by tensors of numbers, some dimensions at once; the others pass."""
    x, nodes = at.value("self"), list(at.args["indices"])
    at_dims = [dim for dim, node in enumerate(nodes) if node is not None]
    if any(nodes[dim].meta["val"].dtype in (torch.bool, torch.uint8) for dim in at_dims):
        return at.unknown("picks by a mask")
    for dim in at_dims:
        at.freeze(x[dim], "looks it up by number")
    looked = at.broadcast([at.of(nodes[dim]) for dim in at_dims])
    rest = [labels for dim, labels in enumerate(x) if dim not in at_dims]
    # The result stands where the lookups stood, or in front where they stood apart.
    together = at_dims == list(range(at_dims[0], at_dims[-1] + 1))
    place = at_dims[0] if together else 0
    return (*rest[:place], *looked, *rest[place:])


@rule("aten.topk", "aten.sort", "aten.kthvalue", "aten.max.dim", "aten.min.dim", "aten.argsort")
def ordered(at: Visit) -> Value | list[Value]:
    """Compares along one dimension; what is found there is no unit any more."""
    x, dim = at.value("self"), at.args.get("dim", -1) % len(at.value("self"))
    at.freeze(x[dim], "compares along it")
    several = at.node.meta["val"]
    first = several[0] if isinstance(several, (list, tuple)) else several
    if first.ndim < len(x):
        value = (*x[:dim], *x[dim + 1 :])
    else:
        value = (*x[:dim], at.fixed(int(first.shape[dim])), *x[dim + 1 :])
    return [value] * len(several) if isinstance(several, (list, tuple)) else value


@rule("aten.argmax", "aten.argmin")
def extreme(at: Visit) -> Value | list[Value] | None:
    """Finds the place of the largest along a dimension."""
    x, dim = at.value("self"), at.args.get("dim")
    if dim is None:
        return at.unknown("compares all of it")
    dim %= len(x)
    at.freeze(x[dim], "compares along it")
    kept = (at.fixed(1),) if at.args.get("keepdim") else ()
    return (*x[:dim], *kept, *x[dim + 1 :])


@rule("aten.cumsum", "aten.cumprod", "aten.logcumsumexp", "aten.diff")
def running(at: Visit) -> Value:
    """Accumulates along one dimension."""
    x, dim = at.value("self"), at.args.get("dim", -1) % len(at.shape)
    at.freeze(x[dim], "accumulates along it")
    return (*x[:dim], at.fixed(at.shape[dim]), *x[dim + 1 :])


@rule("aten.unfold")
def windows(at: Visit) -> Value:
    """Cuts positions into windows that overlap, which come last."""
    x, dim = at.value("self"), at.args["dimension"] % len(at.value("self"))
    at.freeze(x[dim], "cuts it into windows")
    places = at.fixed(at.shape[dim])
    return (*x[:dim], places, *x[dim + 1 :], at.fixed(at.shape[-1]))


@rule("aten.im2col")
def columns(at: Visit) -> Value:
    """Reads patches as columns: each channel becomes a run of kernel positions."""
    x, run = at.value("self"), _area(at.args["kernel_size"])
    for labels in x[-2:]:
        at.freeze(labels, "cuts it into patches")
    return (*x[:-3], np.repeat(x[-3], run), at.fixed(at.shape[-1]))


@rule("aten.col2im")
def image(at: Visit) -> Value:
    """Adds patches up to an image: a run of kernel positions goes as a whole."""
    x, run = at.value("self"), _area(at.args["kernel_size"])
    at.freeze(x[-1], "puts patches in their places")
    runs = x[-2].reshape(-1, run).T
    for other in runs[1:]:
        at.tie(runs[0], other)
    return (*x[:-2], runs[0].copy(), *(at.fixed(size) for size in at.shape[-2:]))


def _area(kernel: Sequence[int]) -> int:
    return int(np.prod(kernel if len(kernel) == 2 else [*kernel, *kernel]))


def spread(index: fx.Node) -> set[int]:
    """Returns the dimensions along which an index repeats one number."""
    if not operator_name(index.target).startswith(("aten.expand.", "aten.expand_as.")):
        return set()
    source: Any = index.args[0]
    if not all("val" in node.meta for node in (source, index)):
        return set()  # made anew since the graph was read
    before, after = shape_of(source), shape_of(index)
    first = len(after) - len(before)
    return {
        dim for dim, size in enumerate(after) if size > 1 and dim >= first
        if before[dim - first] == 1
    } | set(range(first))  # fmt: skip
