"""The kernels of rate-distortion optimised quantisation.

Both choose levels q for weights x (in units of the step) so that

    sum_i F_i * (x_i - q_i)**2 + lam * bits(q)

is small, with the bits that the coder's contexts would spend: the contexts are adapted to
the levels chosen so far, a block at a time. The dependent quantiser is the 8-state trellis
of ISO/IEC 15938-17: states of even number may use even levels, the others odd levels and
zero; the parity of the coded level leads to the next state. Its levels lie as dense as a
vector quantiser's, which is worth up to 1.5 dB at equal bits. Marcellin and Fischer,
"Trellis coded quantization", IEEE Trans. Comm. 1990; Haase et al., "Dependent scalar
quantization for neural network compression", ICIP 2020.
"""

from typing import no_type_check

import numpy as np

from tersenet.codec.arithmetic.bins import FREE, PREFIXES, SIGN, spell
from tersenet.codec.arithmetic.engine import BYPASS
from tersenet.codec.arithmetic.jit import helper, kernel
from tersenet.codec.arithmetic.tables import TRELLIS
from tersenet.codec.levels.rates import TABLE, ZERO, learn, size_cost, tabulate

BLOCK = 256
"""Weights quantised with the same bit costs, before the contexts are adapted to them."""

STATES = 8


@no_type_check
@kernel
def rd_uniform(weights, scale, importance, weight, unary, models, levels):
    """Chooses levels one after the other: the nearest two, or zero."""
    flags = np.zeros((SIGN, 3), np.float32)
    sizes = np.zeros((2, TABLE + PREFIXES), np.float32)
    symbols = np.empty(PREFIXES * 2 + unary + 8, np.uint8)
    weighted = len(importance) > 0
    neighbour = np.int64(0)
    for i in range(len(weights)):
        if i % BLOCK == 0:
            tabulate(models, unary, np.float32(weight), flags, sizes)
        x = np.float64(weights[i]) * scale
        sign = np.int64(x < 0)
        x = abs(x)
        f = np.float64(importance[i]) if weighted else 1.0
        best, least = np.int64(0), f * x * x + flags[neighbour, ZERO]
        nearest = np.int64(x + 0.5)
        for level in range(max(nearest - 1, 1), nearest + 1):
            cost = f * (x - level) ** 2 + flags[neighbour, 1 + sign]
            cost += size_cost(sizes, sign, level, unary)
            if cost < least:
                best, least = level, cost
        best = -best if sign else best
        levels[i] = best
        neighbour = learn(best, neighbour, neighbour, unary, models, symbols)


@no_type_check
@helper
def _step(x, f, costs, classes, new_costs, new_classes, choices, flags, sizes, unary):
    """Extends the eight best paths by one weight.

    `choices[state]` becomes 2 * previous state + (level is not zero).
    """
    sign = np.int64(x < 0)
    size = abs(x)
    first = max(np.int64(size) - 1, np.int64(1))
    kind = 2 - sign  # the class of neighbour that a level of this sign makes
    # Of four levels in a row, one belongs to each pair of quantiser and parity.
    reach = np.empty(4, np.float64)
    for q in range(first, first + 4):
        coded = (q + 1) >> 1
        slot = np.uint32(2 * (q & 1) + (coded & 1))
        reach[slot] = f * (size - q) ** 2 + size_cost(sizes, sign, coded, unary)
    nothing = f * size * size
    for state in range(STATES):
        new_costs[state] = np.inf
    for state in range(STATES):
        s = np.uint32(state)
        context = np.uint32(3 * state + classes[s])
        present = costs[s] + flags[context, np.uint32(1 + sign)]
        absent = costs[s] + flags[context, ZERO] + nothing
        odd = np.uint32(2 * (state & 1))
        even_cost, odd_cost = present + reach[odd], present + reach[odd + np.uint32(1)]
        some_even = even_cost < absent
        even_cost = even_cost if some_even else absent
        target = TRELLIS[s, np.uint32(0)]
        if even_cost < new_costs[target]:
            new_costs[target] = even_cost
            new_classes[target] = kind if some_even else 0
            choices[target] = 2 * state + some_even
        target = TRELLIS[s, np.uint32(1)]
        if odd_cost < new_costs[target]:
            new_costs[target] = odd_cost
            new_classes[target] = kind
            choices[target] = 2 * state + 1


@no_type_check
@helper
def _level(x, state, target):
    """The level, if not zero, that leads from one state to another for weight x."""
    size = abs(x)
    first = max(np.int64(size) - 1, np.int64(1))
    odd = state & 1
    parity = np.int64(TRELLIS[np.uint32(state), np.uint32(1)] == target)
    q = first
    while (q & 1) != odd or (((q + 1) >> 1) & 1) != parity:
        q += 1
    return -q if x < 0 else q


@no_type_check
@helper
def _trace(weights, scale, begin, end, last, choices, levels):
    """Writes the levels of the path that ends in `last`; returns the state it began in."""
    state = last
    for i in range(end - 1, begin - 1, -1):
        choice = np.int64(choices[i, np.uint32(state)])
        before = choice >> 1
        level = np.int64(0)
        if choice & 1:
            level = _level(np.float64(weights[i]) * scale, before, state)
        levels[i] = level
        state = before
    return state


@no_type_check
@kernel
def rd_dependent(weights, scale, importance, weight, unary, models, levels, start):
    """Chooses levels along the cheapest path through the trellis, from state `start`.

    The costs follow the contexts, which adapt to the best path so far: nearly always what the
    whole one will say. Returns the state in which the path ends. Takes 8 bytes per weight.
    """
    count = len(weights)
    flags = np.zeros((SIGN, 3), np.float32)
    sizes = np.zeros((2, TABLE + PREFIXES), np.float32)
    symbols = np.empty(PREFIXES * 2 + unary + 8, np.uint8)
    choices = np.empty((count, STATES), np.uint8)
    costs, new_costs = np.full(STATES, np.inf), np.empty(STATES)
    classes, new_classes = np.zeros(STATES, np.int64), np.zeros(STATES, np.int64)
    costs[start] = 0.0
    weighted = len(importance) > 0
    neighbour = np.int64(0)
    for begin in range(0, count, BLOCK):
        end = min(begin + BLOCK, count)
        if weight > 0:
            tabulate(models, unary, np.float32(weight), flags, sizes)
        for i in range(begin, end):
            x = np.float64(weights[i]) * scale
            f = np.float64(importance[i]) if weighted else 1.0
            _step(x, f, costs, classes, new_costs, new_classes, choices[i], flags, sizes, unary)
            costs, new_costs = new_costs, costs
            classes, new_classes = new_classes, classes
        costs -= costs.min()
        if weight > 0:
            state = _trace(weights, scale, begin, end, np.argmin(costs), choices, levels)
            for i in range(begin, end):
                coded = _coded_level(levels[i], state)
                significant = np.uint32(3 * state + neighbour)
                neighbour = learn(coded, significant, neighbour, unary, models, symbols)
                state = np.int64(TRELLIS[np.uint32(state), np.uint32(coded & 1)])
    last = np.int64(np.argmin(costs))
    _trace(weights, scale, 0, count, last, choices, levels)
    return last


@no_type_check
@kernel
def rd_dependent_settled(weights, scale, importance, flags, sizes, unary, levels, start):
    """As `rd_dependent`, with costs that stay what `spread` made them: less noisy, and faster."""
    count = len(weights)
    choices = np.empty((count, STATES), np.uint8)
    costs, new_costs = np.full(STATES, np.inf), np.empty(STATES)
    classes, new_classes = np.zeros(STATES, np.int64), np.zeros(STATES, np.int64)
    costs[start] = 0.0
    weighted = len(importance) > 0
    for i in range(count):
        x = np.float64(weights[i]) * scale
        f = np.float64(importance[i]) if weighted else 1.0
        _step(x, f, costs, classes, new_costs, new_classes, choices[i], flags, sizes, unary)
        costs, new_costs = new_costs, costs
        classes, new_classes = new_classes, classes
        if i % BLOCK == 0:
            costs -= costs.min()
    last = np.int64(np.argmin(costs))
    _trace(weights, scale, 0, count, last, choices, levels)
    return last


@no_type_check
@helper
def _coded_level(level, state):
    """The level as the coder sees it in that state of the trellis."""
    odd = np.int64(state & 1)
    level = np.int64(level)
    return (level + (odd if level > 0 else -odd)) >> 1 if level else level


@no_type_check
@kernel
def count_bins(levels, unary, counts):
    """Adds to `counts`, (context, bin), the bins of a path that begins in state 0."""
    symbols = np.empty(PREFIXES * 2 + unary + 8, np.uint8)
    state, neighbour = np.int64(0), np.int64(0)
    for i in range(len(levels)):
        coded = _coded_level(levels[i], state)
        significant = np.uint32(3 * state + neighbour)
        state = np.int64(TRELLIS[np.uint32(state), np.uint32(coded & 1)])
        if coded == 0:
            counts[significant, 0] += 1
            neighbour = 0
            continue
        for symbol in symbols[: spell(coded, neighbour, significant, unary, FREE, symbols, 0)]:
            if symbol < 2 * BYPASS:
                counts[symbol >> 1, symbol & 1] += 1
        neighbour = 1 if coded < 0 else 2


@no_type_check
@kernel
def states_at(levels, begins, states):
    """Fills `states` with where a path from state 0 stands at each of `begins`."""
    state, part = np.int64(0), 0
    for i in range(len(levels)):
        if part < len(begins) and i == begins[part]:
            states[part] = state
            part += 1
        state = np.int64(TRELLIS[np.uint32(state), np.uint32(_coded_level(levels[i], state) & 1)])
