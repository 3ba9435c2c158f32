"""How each operator carries labels from its inputs to its output.

A rule ties what must be removed together and fixes what must stay. Reshapes stand in
`reshapes.py`, indices that move in `indexing.py`, norms and attention in `mixing.py`.
"""

import itertools
from typing import cast

import numpy as np

from tersenet.graph.labels import Array, Value
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


@rule("aten.conv1d", "aten.conv2d", "aten.conv3d")
def convolution(at: Visit) -> Value | list[Value] | None:
    """Filters make output channels; each group of filters reads its own input channels."""
    x, weight, bias = at.value("input"), at.value("weight"), at.value("bias")
    groups = at.args.get("groups", 1)
    if len(x) != len(weight):
        return at.unknown("has no batch dimension")
    if at.depends_on_input("weight"):
        return at.unknown("makes its weight from the input")
    filters, reads = weight[:2]
    if groups > 1 and len(reads) == 1:
        at.tie(np.repeat(x[1], len(filters) // groups), filters)  # a group goes as a whole
        at.freeze(reads, "reads one channel with each filter")
    else:
        # Groups stay of equal size: the same position goes from every group.
        of_groups = filters.reshape(groups, -1) if groups > 1 else filters[None]
        for own_filters, own_inputs in zip(of_groups, x[1].reshape(groups, -1), strict=True):
            at.tie(own_inputs, reads)
            at.tie(of_groups[0], own_filters)
    if bias:
        at.tie(bias[0], filters)
    return _convolved(at, x, weight, filters)


@rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def transposed_convolution(at: Visit) -> Value | list[Value] | None:
    """As a convolution whose weight is (in, out, kernel)."""
    x, weight, bias = at.value("input"), at.value("weight"), at.value("bias")
    groups = at.args.get("groups", 1)
    if len(x) != len(weight):
        return at.unknown("has no batch dimension")
    if at.depends_on_input("weight"):
        return at.unknown("makes its weight from the input")
    reads, filters = weight[:2]
    at.tie(x[1], reads)
    if groups > 1 and len(reads) == groups:
        at.freeze(filters, "makes several channels of each")
        channels = np.repeat(reads, len(filters))  # a group goes as a whole
    else:
        for own in reads.reshape(groups, -1)[1:]:  # groups stay of equal size
            at.tie(reads[: len(own)], own)
        channels = np.tile(filters, groups)
    if bias:
        at.tie(bias[0], channels)
    return _convolved(at, x, weight, channels)


@rule("aten.convolution")
def any_convolution(at: Visit) -> Value | list[Value] | None:
    """Either of them, as it is below autograd."""
    return transposed_convolution(at) if at.args["transposed"] else convolution(at)


def _convolved(at: Visit, x: Value, weight: Value, channels: Array) -> Value:
    for labels in (*x[2:], *weight[2:]):
        at.freeze(labels, "moves its kernel over it")
    return (x[0], channels, *(at.fixed(size) for size in at.shape[2:]))


@rule("aten.linear")
def linear(at: Visit) -> Value:
    """Sums over the last dimension of the input."""
    x, weight, bias = at.value("input"), at.value("weight"), at.value("bias")
    if at.depends_on_input("weight"):
        for labels in (x[-1], weight[1]):
            at.freeze(labels, "sums over it between two activations")
    at.tie(x[-1], weight[1])
    if bias:
        at.tie(bias[0], weight[0])
    return (*x[:-1], weight[0])


@rule("aten.batch_norm", "aten.instance_norm")
def batch_norm(at: Visit) -> Value:
    """Scales each channel by itself."""
    x = at.value("input")
    positions = x[2:] if "instance_norm" in at.op else ()
    if at.args.get("training"):
        positions = (x[0], *x[2:])
        if not at.depends_on_input("input"):  # how weights are standardised
            at.over_kept(positions, "standardises over the weights that are left")
            positions = ()
    for labels in positions:
        at.freeze(labels, "normalises over it")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if at.value(name):
            at.tie(x[1], at.value(name)[0])
    return x


@rule("aten.native_batch_norm")
def batch_norm_with_statistics(at: Visit) -> list[Value]:
    """As batch norm; what it normalised with stands beside it."""
    x = at.value("input")
    batch_norm(at)
    told = (x[1] if at.args.get("training") else at.fixed(0),)
    return [x, told, told]


@rule("aten.prelu")
def prelu(at: Visit) -> Value:
    """One slope for all channels, or one for each."""
    x, slope = at.value("self"), at.value("weight")
    if slope and len(slope[0]) > 1:
        at.tie(x[1], slope[0])
    return x


_POOLS = """
    max_pool avg_pool adaptive_avg_pool adaptive_max_pool max_pool_with_indices
    upsample_nearest upsample_bilinear upsample_bicubic upsample_linear upsample_trilinear
""".split()  # noqa: SIM905 (thirty words to a line read better)


def _pool_names() -> list[str]:
    heads = ((name.split("_with_")[0], name.partition("_with_")[2]) for name in _POOLS)
    return [
        f"aten.{head}{rank}d" + (f"_with_{tail}" if tail else "")
        for (head, tail), rank in itertools.product(heads, (1, 2, 3))
    ]


@rule(*_pool_names())
def pooling(at: Visit) -> Value | list[Value]:
    """Works on positions within a channel."""
    x = at.value("self") or at.value("input")
    rank = next(int(letter) for letter in at.op if letter.isdigit())
    for labels in x[-rank:]:
        at.freeze(labels, "pools it")
    output = at.node.meta["val"]
    several = isinstance(output, (tuple, list))
    sizes = (output[0] if several else output).shape[-rank:]
    value = (*x[:-rank], *(at.fixed(int(size)) for size in sizes))
    return [value] * len(output) if several else value


@rule("aten.softmax", "aten.log_softmax", "aten._softmax", "aten._log_softmax")
def softmax(at: Visit) -> Value:
    """Couples all values along one dimension."""
    x = at.value("self")
    at.freeze(x[at.args["dim"]], "normalises over it")
    return x


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
    numbers = all(one is None or isinstance(one, int) for one in (start, end))
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
