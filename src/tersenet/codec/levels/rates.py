"""What levels cost in bits, from the state of the coder's contexts.

The quantisers weigh errors against these costs; a table per block of weights holds them.
"""

from typing import no_type_check

import numpy as np

from tersenet.codec.arithmetic.bins import FREE, GREATER, PREFIXES, SIGN, spell
from tersenet.codec.arithmetic.engine import BYPASS, FAST, SLOW, adapt
from tersenet.codec.arithmetic.jit import helper, kernel
from tersenet.codec.arithmetic.tables import BIT_COST

TABLE = 64
"""Magnitudes whose cost is looked up; larger ones are costed by the length of their suffix."""

ZERO = np.uint32(0)


@no_type_check
@helper
def _cost(models, context, bit):
    s = models[context, SLOW] + 16 * models[context, FAST]
    return BIT_COST[np.uint32(512 + (s >> 3)), np.uint32(bit)]


@no_type_check
@kernel
def tabulate(models, unary, weight, flags, sizes):
    """Fills the costs of a block, times `weight`, from the state of the contexts."""
    bits = np.empty((GREATER + 2 * unary + PREFIXES, 2), np.float32)
    for context in range(len(bits)):
        bits[context, 0] = _cost(models, context, 0)
        bits[context, 1] = _cost(models, context, 1)
    spread(bits, unary, weight, flags, sizes)


@no_type_check
@kernel
def spread(bits, unary, weight, flags, sizes):
    """Fills the costs of levels, times `weight`, from the bits of each bin, (context, bin).

    `flags`, (context, 3): of a zero, and of being positive or negative. `sizes`, (sign,
    magnitude), the rest: magnitudes below TABLE, then at TABLE + group the longer ones.
    """
    for context in range(SIGN):
        flags[context, ZERO] = weight * bits[context, 0]
        for sign in range(2):
            cost = bits[context, 1] + bits[SIGN + context % 3, sign]
            flags[context, 1 + sign] = weight * cost
    for sign in range(2):
        larger = np.float32(0)
        for magnitude in range(1, unary + 1):
            context = GREATER + 2 * (magnitude - 1) + sign
            sizes[sign, magnitude] = weight * (larger + bits[context, 0])
            larger += bits[context, 1]
        for group in range(PREFIXES):
            context = GREATER + 2 * unary + group
            cost = weight * (larger + group + bits[context, 0])
            larger += bits[context, 1]
            sizes[sign, TABLE + group] = cost
            first = unary + (1 << group)
            for magnitude in range(first, min(first + (1 << group), TABLE)):
                sizes[sign, magnitude] = cost


@no_type_check
@helper
def size_cost(sizes, sign, magnitude, unary):
    """Bits of a magnitude above zero, once its presence and sign are known."""
    if magnitude < TABLE:
        return sizes[np.uint32(sign), np.uint32(magnitude)]
    rest = magnitude - unary
    group = 0
    while rest >= (1 << (group + 1)):
        group += 1
    return sizes[np.uint32(sign), np.uint32(TABLE + group)]


@no_type_check
@helper
def learn(level, significant, neighbour, unary, models, symbols):
    """Adapts the contexts to one coded level; returns the class of neighbour it makes."""
    if level == 0:
        adapt(significant, 0, models)
        return np.int64(0)
    count = spell(level, neighbour, significant, unary, FREE, symbols, 0)
    for i in range(count):
        symbol = symbols[i]
        if symbol < 2 * BYPASS:
            adapt(np.uint32(symbol >> 1), symbol & 1, models)
    return np.int64(1 if level < 0 else 2)
