"""How operators that broadcast, join, cut, turn or make tensors carry labels."""

from typing import cast

import numpy as np

from tersenet.graph.labels import Value
from tersenet.graph.visit import Visit, rule

_UNARY = """
    abs alias alpha_dropout celu clamp clamp_max clamp_min clone contiguous cos detach
    bitwise_not ceil detach_ dropout elu erf exp exp2 expm1 feature_dropout floor full_like
    gelu hardshrink hardsigmoid hardswish hardtanh isinf isnan leaky_relu lift_fresh
    lift_fresh_copy log
    log1p log2 log_sigmoid logical_not logit mish nan_to_num neg ones_like reciprocal relu
    relu6 round rsqrt selu sigmoid sign silu sin softplus softshrink sqrt square tan tanh
    threshold to _to_copy trunc type_as zeros_like
""".split()  # noqa: SIM905 (thirty words to a line read better)
_BINARY = """
    add atan2 bitwise_and bitwise_or copy div eq floor_divide fmod ge gt le logical_and logical_or
    lt masked_fill maximum minimum mul ne pow remainder rsub sub where lerp addcmul addcdiv
""".split()  # noqa: SIM905 (thirty words to a line read better)
_INPLACE = [f"{name}_" for name in (*_UNARY, *_BINARY) if not name.endswith("_")]


@rule(*(f"aten.{name}" for name in (*_UNARY, *_BINARY, *_INPLACE)))
def elementwise(at: Visit) -> Value:
    """Broadcasts from the last dimension; equal indices are tied."""
    inputs = [value for value in at.tensors() if value]
    rank = len(at.shape)
    outputs = []
    for back in range(-rank, 0):
        size = at.shape[back]
        carried = [value[back] for value in inputs if len(value) >= -back]
        whole = [labels for labels in carried if len(labels) == size]
        for labels in carried:
            if len(labels) != size:  # one index spread over many cannot go with any of them
                at.freeze(labels, "broadcasts it")
        for labels in whole[1:]:
            at.tie(whole[0], labels)
        outputs.append(whole[0] if whole else at.fixed(size))
    return tuple(outputs)


@rule("aten.cat", "aten.concat")
def concat(at: Visit) -> Value | list[Value] | None:
    """Puts channels side by side; all other dimensions are tied."""
    inputs = at.values("tensors")
    if len({len(value) for value in inputs}) != 1:
        return at.unknown("joins tensors of different rank")
    along = at.args.get("dim", 0) % len(inputs[0])
    for dim in set(range(len(inputs[0]))) - {along}:
        for value in inputs[1:]:
            at.tie(inputs[0][dim], value[dim])
    joined = np.concatenate([value[along] for value in inputs])
    return (*inputs[0][:along], joined, *inputs[0][along + 1 :])


@rule("aten.pad", "aten.constant_pad_nd")
def pad(at: Visit) -> Value:
    """Adds indices that no parameter owns, so what they meet later must stay."""
    x, widths = list(at.value("self")), at.args["pad"]
    for dim, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True), start=1):
        labels = x[-dim]
        plain = before == after == 0
        whole = isinstance(before, int) and isinstance(after, int) and min(before, after) >= 0
        if not plain and (not whole or at.args.get("mode", "constant") != "constant"):
            at.freeze(labels, "crops or mirrors it")
            x[-dim] = at.fixed(at.shape[-dim])
        elif not plain:
            edges = [at.fixed(width, f"adds constants ({at.where})") for width in (before, after)]
            x[-dim] = np.concatenate([edges[0], labels, edges[1]])
    return tuple(x)


@rule("aten.slice.Tensor", "aten.narrow")
def narrow(at: Visit) -> Value:
    """Picks a run of positions."""
    x, dim = list(at.value("self")), at.args.get("dim", 0)
    labels, start, end = x[dim], at.args.get("start"), at.args.get("end")
    if "length" in at.args:
        end = _ended(start, at.args["length"])
    numbers = all(bound is None or isinstance(bound, int) for bound in (start, end))
    run = labels[start:end] if numbers else labels
    if at.args.get("step", 1) != 1 or len(run) != at.shape[dim]:
        at.freeze(labels, "takes a part of it by computed bounds or in steps")
        x[dim] = at.fixed(at.shape[dim])
    else:
        x[dim] = run
    return tuple(x)


def _ended(start: object, length: object) -> int | None:
    if not isinstance(start, int) or not isinstance(length, int):
        return None
    return start + length if start + length != 0 else None


@rule("aten.permute")
def permute(at: Visit) -> Value:
    """Reorders dimensions."""
    x = at.value("self")
    return tuple(x[dim] for dim in at.args["dims"])


@rule("aten.transpose", "aten.swapaxes")
def transpose(at: Visit) -> Value:
    """Swaps two dimensions."""
    x = list(at.value("self"))
    a, b = (int(at.args[name]) for name in at.args if name.startswith(("dim", "axis")))
    x[a], x[b] = x[b], x[a]
    return tuple(x)


@rule("aten.t", "aten.numpy_T")
def reverse(at: Visit) -> Value:
    """Reverses the dimensions."""
    return at.value("self")[::-1]


@rule("aten.zeros", "aten.ones", "aten.full", "aten.new_zeros", "aten.new_ones", "aten.new_full")
def uniform(at: Visit) -> Value:
    """Makes a constant of one value: as long as what it meets."""
    return tuple(at.labels.fresh(size) for size in at.shape)


_DRAWN = "empty rand randn new_empty bernoulli uniform normal exponential"
_LIKE = "bernoulli_ uniform_ normal_ exponential_ empty_like rand_like randn_like"


@rule(*(f"aten.{name}" for name in _DRAWN.split()))
def drawn(at: Visit) -> Value | list[Value] | None:
    """Draws numbers: in training one for each of what is left, elsewhere no two times the same."""
    if not at.labels.when:
        return at.unknown("makes values in forward()")
    x = at.value("self") if "new_" not in at.op else ()
    return x or tuple(at.labels.fresh(size) for size in at.shape)


@rule(*(f"aten.{name}" for name in _LIKE.split()))
def drawn_like(at: Visit) -> Value | list[Value] | None:
    """The same, as many as there are of another tensor."""
    return at.value("self") if at.labels.when else at.unknown("makes values in forward()")


@rule("aten.sym_size", "aten.sym_numel", "aten._assert_tensor_metadata")
def size_of(at: Visit) -> None:
    """Asks for a size and touches no data."""
    del at


@rule("operator.getitem")
def item(at: Visit) -> Value | list[Value] | None:
    """Picks one of an operator's outputs."""
    several, index = at.node.args
    outputs = at.outputs_of(several)
    found = outputs[cast("int", index)] if index in range(len(outputs)) else None
    return at.unknown() if found is None else found
