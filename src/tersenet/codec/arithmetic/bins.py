"""Integers as bins, with the contexts of ISO/IEC 15938-17; `debinarise` is the way back.

Each level is a flag "not zero", a sign, up to `unary` flags "greater than 1, 2, …", and
for what remains an exponential-Golomb code: adaptive prefix, bypass suffix. The first two
depend on whether the level coded before was zero, negative or positive; the first one on
the state of the trellis too, where quantisation is dependent.
Wiedemann et al., "DeepCABAC", 2019, arXiv:1907.11900.

Contexts by number: 24 of "not zero" (3 * state + neighbour), 3 of the sign, 2 * `unary` of
"greater than", 31 of the prefix, one that says which set a context starts from, and one
for rows that are all zero.
"""

from typing import no_type_check

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic.engine import BYPASS, start_contexts
from tersenet.codec.arithmetic.jit import helper, kernel
from tersenet.codec.arithmetic.tables import TRELLIS

SIGN = 24
GREATER = 27
PREFIXES = 31
UNARY = 11
"""Flags "greater than": what NNCodec writes."""
MAX_UNARY = 33
"""With more flags the contexts outgrow the bytes that name them."""
SYMBOLS_PER_LEVEL = 2 + 31 + 30
"""Beyond the flags: zero and sign, prefix, suffix."""

FREE = np.array([1 << 40, 1 << 40])
"""The largest magnitudes below and above zero, where there is no codebook."""

ZERO, ONE = np.uint32(0), np.uint32(1)


def fresh_contexts(unary: int) -> NDArray[np.int32]:
    """The contexts of a tensor's levels as they stand before the first."""
    contexts = GREATER + 2 * unary + PREFIXES
    models = np.empty((contexts, 4), np.int32)
    start_contexts(np.zeros(contexts, np.uint8), models)
    return models


@no_type_check
@helper
def spell(level, neighbour, significant, unary, limits, symbols, n):
    """Writes down the bins of a level that is not zero; returns the new number of bins.

    `limits` holds the largest magnitude below and above zero. What they already say is not
    written: the sign where there is one side, a flag "greater than" the limit.
    """
    negative = np.int64(level < 0)
    limit = limits[np.uint32(1 - negative)]
    symbols[n] = 2 * significant + 1
    n += 1
    if limits[ZERO] > 0 and limits[ONE] > 0:
        symbols[n] = 2 * (SIGN + neighbour) + negative
        n += 1
    rest = abs(level) - 1
    flags = min(unary, limit - 1)
    context = 2 * (GREATER + negative)
    for _ in range(min(rest, flags)):
        symbols[n] = context + 1
        n += 1
        context += 4
    if rest < flags:
        symbols[n] = context
        return n + 1
    if limit <= flags + 1:
        return n
    rest -= flags
    least = flags + 1
    group = 0
    context = 2 * (GREATER + 2 * unary)
    while True:
        larger = np.int64(rest >= (1 << group))
        symbols[n] = context + 2 * group + larger
        n += 1
        if not larger:
            break
        rest -= 1 << group
        least += 1 << group
        group += 1
        if limit < least + (1 << group):
            break
    while group > 0:
        group -= 1
        symbols[n] = 2 * BYPASS + ((rest >> group) & 1)
        n += 1
    return n


@no_type_check
@kernel
def binarise(levels, most, width, skipped, dependent, unary, limits, symbols, state):
    """Writes down the bins of the next `most` levels; returns their number, or -1 - i.

    A negative result says that levels[i] is not one that the trellis can reach.
    `width` is the length of a row (0: rows are never skipped), `skipped` the rows that
    are. `state` carries the position, the neighbour's class, the trellis' state.
    """
    n = 0
    i, neighbour, trellis = state[0], state[1], state[2]
    end = min(i + most, len(levels))
    next_row = (i + width - 1) // width * width if width else len(levels)
    while i < end:
        if i == next_row:
            next_row += width
            if skipped[i // width]:
                trellis = pass_zeros(width, dependent, trellis)
                i = next_row
                continue
        level = np.int64(levels[i])
        i += 1
        if dependent and level != 0:
            odd = trellis & 1
            if (level & 1) != odd:
                return -i
            level = (level + (odd if level > 0 else -odd)) >> 1
        significant = 3 * trellis + neighbour
        if level == 0:
            symbols[n] = 2 * significant
            n += 1
            neighbour = 0
        else:
            n = spell(level, neighbour, significant, unary, limits, symbols, n)
            neighbour = 1 if level < 0 else 2
        if dependent:
            trellis = np.int64(TRELLIS[np.uint32(trellis), np.uint32(level & 1)])
    state[0], state[1], state[2] = i, neighbour, trellis
    return n


@no_type_check
@helper
def pass_zeros(count, dependent, trellis):
    """The state of the trellis after a skipped row: its levels were all even."""
    if dependent:
        for _ in range(count):
            trellis = np.int64(TRELLIS[np.uint32(trellis), np.uint32(0)])
    return trellis
