"""How convolutions, linear layers and what works channel by channel beside them carry labels."""

import itertools

import numpy as np

from tersenet.graph.labels import Array, Value
from tersenet.graph.visit import Visit, rule


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
