"""How reshapes carry labels: flatten, view, unflatten, squeeze.

Both shapes are cut into blocks of equal product. Within a block, dimensions are merged and
split again; of several that were or become one, a single one can shrink.
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
    for old, new in _blocks(tuple(len(labels) for labels in x), at.shape):
        merged = _merge(at, [x[dim] for dim in old])
        for dim, labels in zip(new, _split(at, merged, [at.shape[d] for d in new]), strict=True):
            outputs[dim] = labels
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
    wide = [labels for labels in dims if len(labels) > 1]
    if not wide:
        return dims[0] if dims else at.fixed(1)
    for labels in dims:
        if len(labels) == 1:  # single indices vanish in the wider ones
            at.freeze(labels, "drops it")
    live = [i for i, labels in enumerate(wide) if at.labels.live(labels)]
    sizes = [len(labels) for labels in wide]
    if len(live) > 1:
        merged = at.labels.fresh(math.prod(sizes))
        at.labels.join(merged.reshape(sizes), wide, f"{at.op} mixes it with others ({at.where})")
        return merged
    carrier = live[0] if live else 0
    ones = [-1 if i == carrier else 1 for i in range(len(wide))]
    return np.broadcast_to(wide[carrier].reshape(ones), sizes).ravel()


def _split(at: Visit, merged: Array, sizes: list[int]) -> list[Array]:
    """Returns labels for each of `sizes`: one dimension carries, the others are fixed."""
    reason = f"{at.op} reads it as several dimensions ({at.where})"
    outputs = [at.labels.fixed(size, reason) for size in sizes]
    if not sizes:
        at.freeze(merged, "drops it")
        return outputs
    wide = [axis for axis, size in enumerate(sizes) if size > 1] or [0]
    if len(wide) == 1:
        outputs[wide[0]] = merged
    elif at.labels.live(merged):
        for axis in wide:
            outputs[axis] = at.labels.fresh(sizes[axis])
        grid = merged.reshape([sizes[axis] for axis in wide])
        at.labels.join(grid, [outputs[axis] for axis in wide], reason)
    else:
        label = merged[0]  # for its reason
        outputs = [np.full(size, label) for size in sizes]
    return outputs
