"""How operators that mix along a dimension carry labels: norms, attention, lookups, products.

A norm or a mean over fewer channels is another function than the original with those channels
zeroed: it may shrink, but says what it then means. What a softmax or a product of activations
mixes stays.
"""

from collections.abc import Set
from typing import Final

import numpy as np

from tersenet.graph.labels import Value
from tersenet.graph.visit import Visit, rule

_FEWER: Final = "normalises over the channels that are left"


@rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(at: Visit) -> Value:
    """Statistics over the last dimensions."""
    x, rank = at.value("input"), len(at.args["normalized_shape"])
    for name in ("weight", "bias"):
        for own, other in zip(x[-rank:], at.value(name), strict=False):
            at.tie(own, other)
    at.over_kept(x[-rank:], _FEWER)
    return x


@rule("aten.native_layer_norm")
def layer_norm_with_statistics(at: Visit) -> list[Value]:
    """As a layer norm; mean and spread stand beside it."""
    x, rank = at.value("input"), len(at.args["normalized_shape"])
    layer_norm(at)
    told = (*x[:-rank], *(at.fixed(1) for _ in range(rank)))
    return [x, told, told]


@rule("aten.group_norm")
def group_norm(at: Visit) -> Value | list[Value] | None:
    """Statistics over a number of channels and all positions."""
    x, groups = at.value("input"), at.args["num_groups"]
    for name in ("weight", "bias"):
        if at.value(name):
            at.tie(x[1], at.value(name)[0])
    of_groups = x[1].reshape(groups, -1)
    for other in of_groups[1:]:  # groups stay of equal size
        at.tie(of_groups[0], other)
    if of_groups.shape[1] > 1:
        at.over_kept(x[1:2], _FEWER)
    for labels in x[2:] if of_groups.shape[1] > 1 else x[1:]:
        at.freeze(labels, "normalises over it")
    return x


@rule("aten._weight_norm")
def weight_norm(at: Visit) -> Value | list[Value] | None:
    """Scales each filter of v to the length g; `edits.py` takes from g what leaves the length."""
    if at.depends_on_input("v") or at.depends_on_input("g"):
        return at.unknown("makes its weight from the input")
    v, g = at.value("v"), at.value("g")
    for own, length in zip(v, g, strict=False):  # one length for all has no dimensions
        if len(own) == len(length):
            at.tie(own, length)
        else:
            at.freeze(length, "scales by it")
    if g:
        at.over_kept([v[at.args.get("dim", 0)]])  # each filter by itself
    return v


_STATISTICS = "mean std var std_mean var_mean linalg_vector_norm norm"


@rule(*(f"aten.{name}" for name in _STATISTICS.split()))
def statistic(at: Visit) -> Value | list[Value] | None:
    """Folds positions; over channels it means something else when some are gone."""
    x = at.value("self")
    dims = at.args.get("dim")
    folded = {d % len(x) for d in ([dims] if isinstance(dims, int) else dims or range(len(x)))}
    at.over_kept((x[dim] for dim in folded), "is taken over the channels that are left")
    output = fold(at, x, folded)
    several = at.node.meta["val"]
    return [output] * len(several) if isinstance(several, (list, tuple)) else output


@rule("aten.sum", "aten.amax", "aten.amin", "aten.any", "aten.all", "aten.logsumexp")
def reduction(at: Visit) -> Value:
    """Folds positions; a folded channel would change the result, so it stays."""
    x = at.value("self")
    dims = at.args.get("dim")
    folded = {d % len(x) for d in ([dims] if isinstance(dims, int) else dims or range(len(x)))}
    for dim in folded:
        at.freeze(x[dim], "folds it")
    return fold(at, x, folded)


def fold(at: Visit, x: Value, folded: Set[int]) -> Value:
    """Returns what is left of a value whose dimensions `folded` became one index or none."""
    keep = at.args.get("keepdim", False)
    outputs = ((at.fixed(1) if dim in folded else x[dim]) for dim in range(len(x)))
    return tuple(output for dim, output in enumerate(outputs) if keep or dim not in folded)


@rule("aten.embedding")
def embedding(at: Visit) -> Value:
    """Looks up rows of a table; its columns are channels."""
    table = at.value("weight")
    at.freeze(table[0], "looks up its rows by number")
    return (*at.value("indices"), table[1])


@rule("aten.scaled_dot_product_attention")
def attention(at: Visit) -> Value | list[Value] | None:
    """Works on each head by itself, (..., head, position, dimension)."""
    query, key, value = (at.value(name) for name in ("query", "key", "value"))
    if not len(query) == len(key) == len(value):
        return at.unknown("broadcasts its heads")
    heads = query[:-2]
    for other in (key, value):
        for own, labels in zip(heads, other[:-2], strict=True):
            # grouped queries: a head of keys goes with all the heads that ask it
            grouped = at.args.get("enable_gqa") and len(own) % len(labels) == 0
            at.tie(own, np.repeat(labels, len(own) // len(labels)) if grouped else labels)
    at.freeze(query[-1], "sums over it and scales by its size")
    at.freeze(key[-1], "sums over it and scales by its size")
    for labels in (query[-2], key[-2], value[-2]):
        at.freeze(labels, "mixes its positions")
    mask = at.value("attn_mask")
    for back in range(-len(mask), 0):
        if back >= -2 or back < -len(query) or len(mask[back]) != len(query[back]):
            at.freeze(mask[back], "masks with it")
        else:
            at.tie(query[back], mask[back])
    return (*heads, query[-2], value[-1])


@rule("aten._scaled_dot_product_flash_attention_for_cpu")
def attention_below(at: Visit) -> list[Value] | Value | None:
    """The same below autograd, with the logarithms of its sums."""
    output = attention(at)
    at.freeze(at.value("value")[-1], "takes queries, keys and values of one size")
    return [output, (*output[:-2], output[-2])] if isinstance(output, tuple) else output


@rule("aten.addmm", "aten.mm", "aten.matmul", "aten.bmm", "aten.baddbmm")
def product(at: Visit) -> Value | list[Value] | None:
    """Sums over a dimension; rows, columns and batches pass.

    What is summed over may go where one factor is a parameter, which can be zeroed. Between
    two activations the sum would keep what a removed unit still yields, such as sigmoid(0).
    """
    first, second = _factors(at)
    left, right = at.value(first), at.value(second)
    if not left or len(right) < 2 or (len(left) == 1 and len(right) != 2):
        return at.unknown("multiplies vectors")
    plain = len(right) == 2 or at.op.startswith(("aten.bmm", "aten.baddbmm"))
    if plain and not at.depends_on_input(second):
        at.tie(left[-1], right[-2])
    else:
        for labels in (left[-1], right[-2]):
            at.freeze(labels, "sums over it between two activations")
    batch = at.broadcast([left[:-2], right[:-2]])
    output = (*batch, *left[-2:-1], right[-1])
    added = at.value("self") if "self" not in (first, second) else ()
    for back in range(-len(added), 0):
        if len(added[back]) == len(output[back]):
            at.tie(output[back], added[back])
        else:
            at.freeze(added[back], "broadcasts it")
    return output


def _factors(at: Visit) -> tuple[str, str]:
    for names in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"), ("self", "other")):
        if all(name in at.args for name in names):
            return names
    raise AssertionError(f"{at.op} has no two factors")
