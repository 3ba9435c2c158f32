"""How reshapes carry labels: flatten, view, unflatten, squeeze.

Both shapes are cut into blocks of equal product. Within a block, dimensions are merged (one of
them carries the labels, each repeated for the indices of the others) and split again.
"""

import math
from collections.abc import Iterator

import numpy as np

from tersenet.graph.labels import Array, Value
from tersenet.graph.visit import Visit, rule

_NAMES = "view reshape flatten unflatten squeeze unsqueeze _unsafe_view view_as reshape_as"


@rule(*(f"aten.{name}" for name in _NAMES.split()))
def reshape(at: Visit) -> Value | list[Value] | None:
    """Merges and splits dimensions, e.g. each channel into a run of features."""
    x = at.value("self") or at.value("input")
    if 0 in at.shape:
        return at.unknown("has an empty dimension")
    if math.prod(map(len, x)) != math.prod(at.shape):
        return at.unknown("reads it as another type")
    outputs: list[Array] = [at.fixed(size) for size in at.shape]
    written = _written_sizes(at)
    bound = [isinstance(size, int) and size > 1 for size in written]
    for old, new in _blocks(tuple(len(labels) for labels in x), at.shape):
        merged = _merge(at, [x[dim] for dim in old])
        parts = _split(at, merged, [at.shape[d] for d in new], [bound[d] for d in new])
        for dim, labels in zip(new, parts, strict=True):
            outputs[dim] = labels
    for labels, size, stays in zip(outputs, written, bound, strict=True):
        if stays:
            at.freeze(labels, f"has the size {size} written into the call")
    return tuple(outputs)


def _blocks(old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Yields the dimensions on both sides of each block of equal product."""
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = list(range(i, min(i + 1, len(old)))), list(range(j, min(j + 1, len(new))))
        i, j = i + len(left), j + len(right)
        while (lacking := _product(old, left) - _product(new, right)) != 0:
            if lacking < 0:
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        yield left, right


def _product(shape: tuple[int, ...], dims: list[int]) -> int:
    return math.prod(shape[dim] for dim in dims)


def _merge(at: Visit, dims: list[Array]) -> Array:
    """Returns the labels of several dimensions read as one."""
    if any(len(labels) > 1 for labels in dims):  # single indices vanish in the wider ones
        for labels in dims:
            if len(labels) == 1:
                at.freeze(labels, "drops it")
    merged = dims[0] if dims else at.fixed(1)
    for labels in dims[1:]:
        if at.labels.live(merged) and at.labels.live(labels):
            at.freeze(labels, "mixes it with another prunable dimension")
        if at.labels.live(labels):
            merged = np.tile(labels, len(merged))
        else:
            merged = np.repeat(merged, len(labels))
    return merged


def _split(at: Visit, merged: Array, sizes: list[int], bound: list[bool]) -> list[Array]:
    """Returns labels for each of `sizes`: one dimension carries, the others are fixed.

    Best one whose size the code leaves open: `view(n, 2, -1)` shrinks in the last dimension,
    with the same position in both groups; `view(n, t, -1, 64)` by whole heads.
    """
    outputs = [at.fixed(size, f"reads it as several dimensions ({at.where})") for size in sizes]
    if not sizes or not at.labels.live(merged):
        if not sizes:
            at.freeze(merged, "drops it")
        return outputs
    grid = merged.reshape(sizes)
    classes = at.labels.classes(grid)
    wide = [axis for axis, size in enumerate(sizes) if size > 1] or [0]
    for axis in wide:
        rows = np.moveaxis(classes, axis, 0).reshape(sizes[axis], -1)
        if (rows == rows[:, :1]).all():
            break
    else:
        # the outer dimension goes as a whole: heads, groups
        axis = next((one for one in wide if not bound[one]), wide[0])
    rows = np.moveaxis(grid, axis, 0).reshape(sizes[axis], -1)
    for row in rows:
        at.labels.tie(np.full(len(row), row[0]), row)
    outputs[axis] = rows[:, 0].copy()
    return outputs


def _written_sizes(at: Visit) -> list[object]:
    """Returns the output sizes that the code fixes: an int each, else None."""
    free: list[object] = [None] * len(at.shape)
    if at.op.startswith(("aten.view.", "aten.reshape.", "aten._unsafe_view.")):
        return list(at.args.get("size") or at.args.get("shape") or free)
    if at.op.startswith("aten.unflatten"):
        dim, sizes = at.args["dim"] % len(at.value("self")), list(at.args["sizes"])
        free[dim : dim + len(sizes)] = sizes
    elif at.op.endswith("_as.default"):
        return list(at.shape[:1]) and [None, *at.shape[1:]]
    return free
