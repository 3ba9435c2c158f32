"""The adaptive binary arithmetic coder: bins in, bytes out, and back.

The engine is the one of the HEVC and VVC video standards as ISO/IEC 15938-17 uses it: a
range of 9 bits, bins coded with an adaptive probability or with an even one (bypass), one
terminating bin, a stop bit. Marpe, Schwarz, Wiegand, "Context-based adaptive binary
arithmetic coding", IEEE TCSVT 2003; Haase et al., 2020, for the two-window estimator.

To encode, the bins of a tensor are first written down as bytes, `2 * context + bin`, and
then coded in one loop without unpredictable branches. To decode, every bin must be known
before the next one can be named, so the decoder calls `decode_bin` from where it stands.
"""

from typing import no_type_check

import numpy as np

from tersenet.codec.arithmetic.jit import helper, kernel
from tersenet.codec.arithmetic.tables import (
    BIT_COST,
    CURVE,
    FAST_SHIFT,
    FAST_START,
    INITIAL,
    LPS_RANGE,
    SLOW_SHIFT,
    SLOW_START,
)

BYPASS = 127
"""The context of bins that are coded with an even probability."""

FAST, SLOW = np.uint32(0), np.uint32(1)

SETS = len(INITIAL)
SETTLED = 1 << 10
"""Bins after which a context has forgotten where it started."""

# Shifts that bring a range back to 9 bits, by range.
SHIFTS = np.array([0, *(9 - int(r).bit_length() for r in range(1, 512))], dtype=np.int64)


@no_type_check
@helper
def adapt(context, bit, models):
    """Moves both windows of a context towards the bin that was just coded."""
    sign = 2 * np.int32(bit) - np.int32(1)
    f, s = models[context, FAST], models[context, SLOW]
    near = CURVE[np.uint32(16 + ((sign * f) >> 3))]
    far = CURVE[np.uint32(16 + ((sign * s) >> 7))]
    models[context, FAST] = f + sign * (near >> models[context, 2])
    models[context, SLOW] = s + sign * (far >> models[context, 3])


@no_type_check
@kernel
def start_contexts(sets, models):
    """Puts each context in the state its set (0 to 8) says.

    A row of `models` is one context: fast window, slow window, and the shift of each.
    """
    for context in range(len(sets)):
        chosen = sets[context]
        models[context, FAST], models[context, SLOW] = FAST_START[chosen], SLOW_START[chosen]
        models[context, 2], models[context, 3] = FAST_SHIFT[chosen], SLOW_SHIFT[chosen]


@no_type_check
@helper
def _carry(out, position):
    """Adds one to the number that ends before `position`."""
    at = position - 1
    while out[at] == 255:
        out[at] = 0
        at -= 1
    out[at] += 1


@no_type_check
@helper
def _put(out, position, word):
    """Writes 32 bits, most significant first, and carries bit 32 into what is written."""
    if word >> 32:
        _carry(out, position)
    out[position] = (word >> 24) & 255
    out[position + 1] = (word >> 16) & 255
    out[position + 2] = (word >> 8) & 255
    out[position + 3] = word & 255
    return position + 4


@no_type_check
@kernel
def code_symbols(symbols, count, models, out, state):
    """Codes the first `count` symbols into `out`, from and to `state`.

    `state` holds low, range, bits of low that are in use, and the bytes written. `out`
    must have room for one byte per symbol and 16 more: no bin costs more than 8 bits.
    """
    low, width, used, position = state[0], state[1], state[2], state[3]
    for i in range(count):
        symbol = np.uint32(symbols[i])
        context, bit = symbol >> np.uint32(1), np.int64(symbol & np.uint32(1))
        if context == BYPASS:
            low = (low << 1) + (width & -bit)
            used += 1
        else:
            s = np.int64(models[context, SLOW]) + 16 * np.int64(models[context, FAST])
            less = np.int64(LPS_RANGE[np.uint32(abs(s >> 7) + (width & 0xE0))])
            more = width - less
            # All ones where the bin is the less probable one: a branch here would be
            # mispredicted about as often as there are bits in the output.
            rare = -(bit ^ np.int64(s >= 0))
            low += more & rare
            width = more ^ ((more ^ less) & rare)
            shift = SHIFTS[np.uint32(width)]
            low <<= shift
            width <<= shift
            used += shift
            adapt(context, bit, models)
        if used >= 41:
            used -= 32
            position = _put(out, position, low >> used)
            low &= (1 << used) - 1
    state[0], state[1], state[2], state[3] = low, width, used, position


@no_type_check
@kernel
def finish(out, state):
    """Codes the terminating bin and the stop bit; returns the number of bytes written."""
    low, width, used, position = state[0], state[1], state[2], state[3]
    low = (low + width - 2) << 7
    used += 7
    # The last 8 bits need not be known to the decoder; the stop bit takes their place.
    low, used = ((low >> 8) << 1) | 1, used - 7
    if low >> used:
        _carry(out, position)
        low &= (1 << used) - 1
    low <<= -used & 7
    used += -used & 7
    while used > 0:
        used -= 8
        out[position] = (low >> used) & 255
        position += 1
    return position


@no_type_check
@kernel
def count_costs(symbols, count, contexts, seen, costs, fast, slow):
    """Adds to `costs` the bits that each of the nine sets would spend on each context.

    Contexts do not see each other, so the bins are sorted by context first and each
    context is replayed on its own. `seen` counts the bins of each context so far; `fast`
    and `slow`, (context, set), carry the states from one call to the next.
    """
    starts = np.zeros(129, dtype=np.int64)
    for i in range(count):
        starts[(symbols[i] >> 1) + 1] += 1
    for context in range(128):
        starts[context + 1] += starts[context]
    ends = starts.copy()
    bins = np.empty(count, dtype=np.uint8)
    for i in range(count):
        context = np.uint32(symbols[i] >> 1)
        bins[ends[context]] = symbols[i] & 1
        ends[context] += 1
    for context in range(contexts):
        begin, end = starts[context], ends[context]
        if begin == end:
            continue
        for chosen in range(SETS):
            # Sets with equal shifts run into the same states: one stands for all.
            same = chosen > 0 and FAST_SHIFT[chosen] == FAST_SHIFT[chosen - 1]
            if seen[context] >= SETTLED and same:
                costs[context, chosen] += costs[context, SETS] * (end - begin)
                continue
            total = 0.0
            f, s = fast[context, chosen], slow[context, chosen]
            fast_shift, slow_shift = FAST_SHIFT[chosen], SLOW_SHIFT[chosen]
            for i in range(begin, end):
                bit = np.uint32(bins[i])
                total += BIT_COST[np.uint32(512 + ((s + 16 * f) >> 3)), bit]
                sign = 2 * np.int32(bit) - np.int32(1)
                f += sign * (CURVE[np.uint32(16 + ((sign * f) >> 3))] >> fast_shift)
                s += sign * (CURVE[np.uint32(16 + ((sign * s) >> 7))] >> slow_shift)
            fast[context, chosen], slow[context, chosen] = f, s
            costs[context, chosen] += total
            costs[context, SETS] = total / (end - begin)
        seen[context] += end - begin


@no_type_check
@helper
def refill(data, value, ready, position):
    """Brings 32 more bits into the window; past the end they are zeros."""
    word = np.int64(0)
    size = len(data)
    if position + 4 <= size:
        word = (
            (np.int64(data[position]) << 24)
            | (np.int64(data[position + 1]) << 16)
            | (np.int64(data[position + 2]) << 8)
            | np.int64(data[position + 3])
        )
    else:
        for i in range(position, position + 4):
            word = (word << 8) | (np.int64(data[i]) if i < size else 0)
    return (value << 32) | word, ready + 32, position + 4


@no_type_check
@helper
def decode_bin(context, models, data, value, width, ready, at):
    """Decodes one adaptive bin; returns it with the state after it.

    `value` is the offset in the current interval, scaled by 2**ready: `ready` counts the
    bits that have been read ahead.
    """
    s = np.int64(models[context, SLOW]) + 16 * np.int64(models[context, FAST])
    less = np.int64(LPS_RANGE[np.uint32(abs(s >> 7) + (width & 0xE0))])
    more = width - less
    scaled = more << ready
    rare = -np.int64(value >= scaled)
    bit = np.int64(s >= 0) ^ (rare & 1)
    value -= scaled & rare
    width = more ^ ((more ^ less) & rare)
    shift = SHIFTS[np.uint32(width)]
    width <<= shift
    ready -= shift
    adapt(context, bit, models)
    if ready < 16:
        value, ready, at = refill(data, value, ready, at)
    return bit, value, width, ready, at


@no_type_check
@helper
def decode_bypass(data, value, width, ready, at):
    """Decodes one bin of even probability; returns it with the state after it."""
    ready -= 1
    scaled = width << ready
    bit = np.int64(value >= scaled)
    value -= scaled & -bit
    if ready < 16:
        value, ready, at = refill(data, value, ready, at)
    return bit, value, ready, at
