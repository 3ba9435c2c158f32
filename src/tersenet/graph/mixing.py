"""How operators that mix along a dimension carry labels: norms, attention, lookups, products.

What is mixed stays. A mean or a softmax over fewer channels would be another function than the
original with those channels zeroed, so that nothing could be proved of it.
"""

from tersenet.graph.labels import Array, Value
from tersenet.graph.visit import Visit, rule

_NORMALISES = "normalises over it, which would mean something else over fewer of them"


@rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(at: Visit) -> Value:
    """Statistics over the last dimensions."""
    x, rank = at.value("input"), len(at.args["normalized_shape"])
    for name in ("weight", "bias"):
        for own, other in zip(x[-rank:], at.value(name), strict=False):
            at.tie(own, other)
    for labels in x[-rank:]:
        at.freeze(labels, _NORMALISES)
    return x


@rule("aten.group_norm")
def group_norm(at: Visit) -> Value:
    """Statistics over a number of channels and all positions."""
    x = at.value("input")
    for name in ("weight", "bias"):
        if at.value(name):
            at.tie(x[1], at.value(name)[0])
    for labels in x[1:]:
        at.freeze(labels, _NORMALISES)
    return x


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
            at.tie(own, labels)
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
    batch = _broadcast(at, left[:-2], right[:-2])
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


def _broadcast(at: Visit, left: Value, right: Value) -> Value:
    outputs: list[Array] = []
    for back in range(-max(len(left), len(right)), 0):
        carried = [one[back] for one in (left, right) if len(one) >= -back]
        widest = max(carried, key=len)
        for labels in carried:
            if len(labels) == len(widest):
                at.tie(widest, labels)
            else:
                at.freeze(labels, "broadcasts it")
        outputs.append(widest)
    return tuple(outputs)
