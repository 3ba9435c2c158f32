"""The kernels of quantisation with error feedback; `feedback` says what they minimise."""

from typing import no_type_check

import numpy as np

from tersenet.codec.arithmetic.bins import PREFIXES, SIGN, UNARY
from tersenet.codec.arithmetic.jit import helper, kernel
from tersenet.codec.arithmetic.tables import TRELLIS
from tersenet.codec.levels.rates import TABLE, ZERO, learn, size_cost, tabulate
from tersenet.codec.levels.trellis import BLOCK, STATES


@no_type_check
@helper
def _pass_down(weights, rows, r, levels):
    """Moves the rows below by what is lost in row r, along the curvature between rows."""
    for below in range(r + 1, len(weights)):
        share = rows[r, below] / rows[r, r]
        if share != 0.0:
            for k in range(weights.shape[1]):
                weights[below, k] -= share * (weights[r, k] - levels[r, k])


@no_type_check
@kernel
def feedback_uniform(weights, columns, rows, weight, models, levels, held):
    """Chooses levels row by row; `weights`, in units of the step, are used up.

    Where `held` is set the level is zero. Returns the distortion in units of the step
    squared, and the bits.
    """
    height, width = weights.shape
    flags = np.zeros((SIGN, 3), np.float32)
    sizes = np.zeros((2, TABLE + PREFIXES), np.float32)
    symbols = np.empty(PREFIXES * 2 + UNARY + 8, np.uint8)
    row = np.empty(width)
    neighbour, seen = np.int64(0), 0
    distortion, bits = 0.0, 0.0
    for r in range(height):
        row[:] = weights[r]
        for j in range(width):
            if seen % BLOCK == 0:
                tabulate(models, UNARY, np.float32(1), flags, sizes)
            seen += 1
            x = row[j]
            sign, size = np.int64(x < 0), abs(x)
            spread = columns[j, j]
            f = 1.0 / (spread * rows[r, r]) ** 2
            best, least, spent = np.int64(0), f * size * size, flags[neighbour, ZERO]
            total = least + weight * spent
            near = np.int64(0) if held[r, j] else np.int64(size + 0.5)
            for level in range(max(near - 1, 1), near + 1):
                rate = flags[neighbour, 1 + sign] + size_cost(sizes, sign, level, UNARY)
                loss = f * (size - level) ** 2
                if loss + weight * rate < total:
                    total, best, least, spent = loss + weight * rate, level, loss, rate
            best = -best if sign else best
            levels[r, j] = best
            distortion += least
            bits += spent
            lost = (x - best) / spread
            for k in range(j + 1, width):
                row[k] -= lost * columns[j, k]
            neighbour = learn(best, neighbour, neighbour, UNARY, models, symbols)
        _pass_down(weights, rows, r, levels)
    return distortion, bits


@no_type_check
@helper
def _reach(now, j, f, weight, old, trace, new, flags, sizes, zero):
    """Extends the eight best paths by the weight in column j.

    With `zero` every path takes a zero. `old` and `new` hold the cost and the class of
    neighbour of each state; `trace[:, j]` becomes the state before each, and the level that
    led there.
    """
    for state in range(STATES):
        new[0, state] = np.inf
    for state in range(STATES):
        s = np.uint32(state)
        if old[0, s] == np.inf:
            continue
        x = now[state, j]
        sign, size = np.int64(x < 0), abs(x)
        context = np.uint32(3 * state + np.int64(old[1, s]))
        target = TRELLIS[s, ZERO]
        cost = old[0, s] + f * size * size + weight * flags[context, ZERO]
        if cost < new[0, target]:
            new[0, target], new[1, target] = cost, 0.0
            trace[0, j, target], trace[1, j, target] = state, 0
        if zero:
            continue
        odd = state & 1
        # The two nearest levels of the state's own quantiser lead to different states.
        first = np.int64(size)
        first -= (first & 1) != odd
        for level in range(first, first + 3, 2):
            if level < 1:
                continue
            coded = (level + odd) >> 1
            target = TRELLIS[s, np.uint32(coded & 1)]
            rate = flags[context, np.uint32(1 + sign)] + size_cost(sizes, sign, coded, UNARY)
            cost = old[0, s] + f * (size - level) ** 2 + weight * rate
            if cost < new[0, target]:
                new[0, target], new[1, target] = cost, 2.0 - sign
                trace[0, j, target], trace[1, j, target] = state, -level if sign else level


@no_type_check
@kernel
def feedback_dependent(weights, columns, rows, weight, models, levels, held):
    """As `feedback_uniform`, along the trellis.

    Each of the eight paths feeds back its own errors. A row ends in the state of its
    cheapest path, where the next one begins.
    """
    height, width = weights.shape
    flags = np.zeros((SIGN, 3), np.float32)
    sizes = np.zeros((2, TABLE + PREFIXES), np.float32)
    symbols = np.empty(PREFIXES * 2 + UNARY + 8, np.uint8)
    now, then = np.empty((STATES, width)), np.empty((STATES, width))
    trace = np.zeros((2, width, STATES), np.int64)
    old, new = np.zeros((2, STATES)), np.zeros((2, STATES))
    start, neighbour, seen = np.int64(0), np.int64(0), BLOCK
    total, bits = 0.0, 0.0
    for r in range(height):
        if seen >= BLOCK:
            tabulate(models, UNARY, np.float32(1), flags, sizes)
            seen = 0
        old[0] = np.inf
        old[0, start], old[1, start] = 0.0, neighbour
        now[start] = weights[r]
        for j in range(width):
            spread = columns[j, j]
            f = 1.0 / (spread * rows[r, r]) ** 2
            _reach(now, j, f, weight, old, trace, new, flags, sizes, held[r, j])
            for state in range(STATES):
                if new[0, state] == np.inf:
                    continue
                before = trace[0, j, state]
                lost = (now[before, j] - trace[1, j, state]) / spread
                for k in range(j + 1, width):
                    then[state, k] = now[before, k] - lost * columns[j, k]
            now, then = then, now
            old, new = new, old
        state = np.int64(np.argmin(old[0]))
        total += old[0, state]
        for j in range(width - 1, -1, -1):
            levels[r, j] = trace[1, j, state]
            state = trace[0, j, state]
        for j in range(width):
            level = np.int64(levels[r, j])
            odd = state & 1
            sign = np.int64(level < 0)
            coded = (level + (-odd if sign else odd)) >> 1 if level else level
            context = np.uint32(3 * state + neighbour)
            if level == 0:
                bits += flags[context, ZERO]
            else:
                bits += flags[context, np.uint32(1 + sign)]
                bits += size_cost(sizes, sign, abs(coded), UNARY)
            neighbour = learn(coded, context, neighbour, UNARY, models, symbols)
            state = np.int64(TRELLIS[np.uint32(state), np.uint32(coded & 1)])
        start = state
        seen += width
        _pass_down(weights, rows, r, levels)
    return total - weight * bits, bits
