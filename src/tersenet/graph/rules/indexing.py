"""How taking apart, putting together and moving indices carries labels.

What the code writes down as a number (a split size, a bound) does not bind: `constants.py`
derives it anew where units go.
"""

import numpy as np

from tersenet.graph.labels import Array, Value
from tersenet.graph.visit import Visit, rule


@rule("aten.chunk")
def chunk(at: Visit) -> list[Value]:
    """Cuts into equal parts: the same position goes from every part."""
    x = at.value("self")
    dim, parts = at.args.get("dim", 0) % len(x), len(at.node.meta["val"])
    if len(x[dim]) % parts == 0 and parts == at.args["chunks"]:
        _tied(at, x[dim].reshape(parts, -1))
    return at.parts(x, dim)


@rule("aten.split", "aten.split_with_sizes", "aten.tensor_split", "aten.unsafe_split")
def split(at: Visit) -> list[Value]:
    """Cuts at sizes written in the code."""
    x = at.value("self")
    return at.parts(x, at.args.get("dim", 0) % len(x))


@rule("aten.glu")
def gated(at: Visit) -> Value:
    """Gates the first half with the second."""
    x = at.value("self")
    dim = at.args.get("dim", -1) % len(x)
    return _with(x, dim, _tied(at, x[dim].reshape(2, -1))[0])


@rule("aten.unbind", "aten.select")
def pick(at: Visit) -> Value | list[Value]:
    """Takes single indices of a dimension: those stay, as nothing would be left of them."""
    x = at.value("self")
    dim, index = at.args.get("dim", 0) % len(x), at.args.get("index")
    taken = x[dim][index : index + 1 or None] if isinstance(index, int) else x[dim]
    at.freeze(taken, "takes single indices of it")
    rest = x[:dim] + x[dim + 1 :]
    several = at.node.meta["val"]
    return [rest] * len(several) if isinstance(several, (list, tuple)) else rest


@rule("aten.stack")
def stack(at: Visit) -> Value:
    """Puts tensors of one shape next to each other along a new dimension."""
    inputs = at.values("tensors")
    for value in inputs[1:]:
        for own, other in zip(inputs[0], value, strict=True):
            at.tie(own, other)
    dim = at.args.get("dim", 0) % (len(inputs[0]) + 1)
    return (*inputs[0][:dim], at.fixed(len(inputs)), *inputs[0][dim:])


@rule("aten.expand", "aten.expand_as", "aten.broadcast_to")
def expand(at: Visit) -> Value:
    """Spreads single indices; the others pass."""
    x, other = at.value("self"), at.value("other")
    outputs = [at.fixed(size) for size in at.shape]
    for back in range(-len(x), 0):
        if len(x[back]) == at.shape[back]:
            outputs[back] = x[back]
        else:
            at.freeze(x[back], "broadcasts it")
    for back in range(-len(other), 0):
        if -back <= len(x) and len(other[back]) == len(x[back]):
            at.tie(x[back], other[back])
        else:
            at.freeze(other[back], "broadcasts it")
    return tuple(outputs)


@rule("aten.repeat", "aten.tile")
def repeat(at: Visit) -> Value | list[Value] | None:
    """Puts copies one after the other: an index goes from every copy."""
    x, times = at.value("self"), at.args.get("repeats") or at.args.get("dims") or []
    if not all(isinstance(count, int) for count in times):
        return at.unknown("repeats a number of times that is computed")
    times = [1] * (len(at.shape) - len(times)) + list(times)
    fresh = len(at.shape) - len(x)
    outputs = [at.fixed(size) for size in at.shape[:fresh]]
    return (
        *outputs,
        *(np.tile(own, count) for own, count in zip(x, times[fresh:], strict=True)),
    )


@rule("aten.repeat_interleave.self_int")
def interleave(at: Visit) -> Value | list[Value] | None:
    """Puts copies of an index next to it."""
    x, times, dim = at.value("self"), at.args["repeats"], at.args.get("dim")
    if dim is None or not isinstance(times, int):
        return at.unknown("flattens, or repeats a number of times that is computed")
    return _with(x, dim % len(x), np.repeat(x[dim], times))


@rule("aten.flip")
def flip(at: Visit) -> Value:
    """Reverses the order along some dimensions."""
    x = at.value("self")
    turned = {dim % len(x) for dim in at.args["dims"]}
    return tuple(own[::-1].copy() if dim in turned else own for dim, own in enumerate(x))


@rule("aten.roll")
def roll(at: Visit) -> Value | list[Value] | None:
    """Moves indices in a circle; how far follows from how many are left of those that wrap."""
    x, dims = list(at.value("self")), at.args.get("dims")
    if not dims or not all(isinstance(shift, int) for shift in at.args["shifts"]):
        return at.unknown("flattens it, or moves it by a distance that is computed")
    for dim, shift in zip(dims, at.args["shifts"], strict=True):
        x[dim] = np.roll(x[dim], shift)
    return tuple(x)


@rule("aten.movedim")
def move(at: Visit) -> Value:
    """Reorders dimensions."""
    x = at.value("self")
    ends = (at.args["source"], at.args["destination"])
    sources, places = ([end] if isinstance(end, int) else list(end) for end in ends)
    to = {place % len(x): source % len(x) for source, place in zip(sources, places, strict=True)}
    rest = iter(dim for dim in range(len(x)) if dim not in to.values())
    return tuple(x[to[dim] if dim in to else next(rest)] for dim in range(len(x)))


@rule("aten.channel_shuffle")
def channel_shuffle(at: Visit) -> Value:
    """Deals channels from one group to the next: the same position goes from every group."""
    x = at.value("self")
    return _with(x, 1, np.stack(_tied(at, x[1].reshape(at.args["groups"], -1))).T.ravel())


@rule("aten.pixel_shuffle")
def pixel_shuffle(at: Visit) -> Value:
    """Turns runs of channels into positions: a run goes as a whole."""
    x, run = at.value("self"), at.args["upscale_factor"] ** 2
    channels = _tied(at, x[-3].reshape(-1, run).T)[0]
    return _on_positions(at, x, channels)


@rule("aten.pixel_unshuffle")
def pixel_unshuffle(at: Visit) -> Value:
    """Turns positions into runs of channels."""
    x, run = at.value("self"), at.args["downscale_factor"] ** 2
    return _on_positions(at, x, np.repeat(x[-3], run))


def _on_positions(at: Visit, x: Value, channels: Array) -> Value:
    for labels in x[-2:]:
        at.freeze(labels, "moves it between channels and positions")
    return (*x[:-3], channels, *(at.fixed(size) for size in at.shape[-2:]))


def _tied(at: Visit, rows: np.ndarray) -> list[Array]:
    """Ties all rows to the first, position by position."""
    for row in rows[1:]:
        at.tie(rows[0], row)
    return list(rows)


def _with(x: Value, dim: int, labels: Array) -> Value:
    return (*x[:dim], labels, *x[dim + 1 :])
