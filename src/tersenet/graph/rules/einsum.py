"""How sums in Einstein's notation carry labels: each letter is one dimension."""

import string
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from torch import fx

from tersenet.graph.labels import Array, Value
from tersenet.graph.visit import Visit, rule, shape_of

__all__ = ["filters", "letters"]

_OTHERS: Final = "".join(chr(code) for code in range(0x3B1, 0x3C9))
"""What dimensions behind an ellipsis are called: no letter of an equation."""


@rule("aten.einsum")
def einsum(at: Visit) -> Value:
    """Ties dimensions of one letter. A letter that is summed over may go with a parameter."""
    nodes = list(at.args["tensors"])
    values = [at.of(node) for node in nodes]
    reads, writes = letters(at.node, [len(value) for value in values])
    carried: dict[str, list[Array]] = defaultdict(list)
    zeroed: set[str] = set()  # letters of a parameter, which removal zeroes
    for node, value, own in zip(nodes, values, reads, strict=True):
        for letter, labels in zip(own, value, strict=True):
            carried[letter].append(labels)
            if not at.computed(node):
                zeroed.add(letter)
    found: dict[str, Array] = {}
    for letter, dims in carried.items():
        found[letter] = widest = max(dims, key=len)
        for labels in dims:
            if len(labels) == len(widest):
                at.tie(widest, labels)
            else:
                at.freeze(labels, "broadcasts it")
        if letter not in writes and letter not in zeroed:
            at.freeze(widest, "sums over it between two activations")
    return tuple(found[letter] for letter in writes)


def letters(node: fx.Node, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Returns a letter for each dimension of each factor of an einsum, and those of the result.

    An ellipsis gets letters of its own; without an arrow the result has what occurs once, in
    the order of the alphabet.
    """
    left, arrow, right = str(node.args[0]).replace(" ", "").partition("->")
    reads = left.split(",")
    more = [rank - len(own.replace("...", "")) for own, rank in zip(reads, ranks, strict=True)]
    shared = _OTHERS[: max(more)]
    reads = [
        own.replace("...", shared[-n:] if n else "") for own, n in zip(reads, more, strict=True)
    ]
    if arrow:
        return reads, right.replace("...", shared)
    every = "".join(reads)
    return reads, shared + "".join(
        letter
        for letter in string.ascii_uppercase + string.ascii_lowercase
        if every.count(letter) == 1
    )


def filters(node: fx.Node, factor: fx.Node) -> int | None:
    """Returns the dimension of a factor that the result has from it alone, or None."""
    found: Any = node.args[1]
    factors: list[fx.Node] = list(found)
    reads, writes = letters(node, [len(shape_of(factor)) for factor in factors])
    place = factors.index(factor)
    others = "".join(own for i, own in enumerate(reads) if i != place)
    new = [d for d, letter in enumerate(reads[place]) if letter in writes and letter not in others]
    return new[-1] if new else None
