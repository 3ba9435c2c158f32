"""Bins back to integers: the decoder's half of `levels`, with the same contexts.

Reading past the end of the data yields zeros, so that the loops need no test per bit; what
was missing is noticed within a few levels.
"""

from typing import no_type_check

import numpy as np

from tersenet.codec.arithmetic.bins import GREATER, PREFIXES, SIGN, pass_zeros
from tersenet.codec.arithmetic.engine import decode_bin, decode_bypass, refill, start_contexts
from tersenet.codec.arithmetic.jit import helper, kernel
from tersenet.codec.arithmetic.tables import TRELLIS

PAST_END = 8
"""Bytes that the decoder may look beyond the end before it is sure that they are missing."""

OK, OVERRUN, OVERFLOW, NO_END = 0, 1, 2, 3

ZERO, ONE = np.uint32(0), np.uint32(1)


@no_type_check
@helper
def _read_bits(count, data, value, width, ready, at):
    """Decodes a number of `count` bypass bins."""
    number = np.int64(0)
    for _ in range(count):
        bit, value, ready, at = decode_bypass(data, value, width, ready, at)
        number = 2 * number + bit
    return number, value, ready, at


@no_type_check
@helper
def _read_level(negative, limit, unary, models, data, value, width, ready, at):
    """Decodes a level that is not zero, its sign known; 0 says that it is too large."""
    magnitude, bit, flag = np.int64(1), np.int64(1), np.int64(0)
    flags = min(np.int64(unary), limit - 1)
    context = GREATER + negative
    while flag < flags and bit:
        bit, value, width, ready, at = decode_bin(
            np.uint32(context + 2 * flag), models, data, value, width, ready, at
        )
        magnitude += bit
        flag += 1
    if bit and magnitude < limit:
        group = np.int64(0)
        context = GREATER + 2 * unary
        while bit and group < PREFIXES and (group == 0 or limit >= magnitude + (1 << group)):
            bit, value, width, ready, at = decode_bin(
                np.uint32(context + group), models, data, value, width, ready, at
            )
            magnitude += bit << group
            group += bit
        if group == PREFIXES:
            return np.int64(0), value, width, ready, at
        suffix, value, ready, at = _read_bits(group, data, value, width, ready, at)
        magnitude += suffix
        if magnitude > limit:
            return np.int64(0), value, width, ready, at
    return (-magnitude if negative else magnitude), value, width, ready, at


@no_type_check
@kernel
def open_payload(data, bits, stream):
    """Fills `stream`: value, range, bits read ahead, bytes read; returns `bits` bypass bins.

    Reading past the end of `data` yields zeros and is noticed within a few levels.
    """
    # The first 9 bits are the offset itself; what follows is read ahead.
    value, ready, at = refill(data, np.int64(0), np.int64(-9), np.int64(0))
    stream[0], stream[1], stream[2], stream[3] = value, 510, ready, at
    return read_number(data, bits, stream)


@no_type_check
@kernel
def read_number(data, bits, stream):
    """Decodes a number of so many bypass bins."""
    number, value, ready, at = _read_bits(bits, data, stream[0], stream[1], stream[2], stream[3])
    stream[0], stream[2], stream[3] = value, ready, at
    return number


@no_type_check
@kernel
def seek(data, position, value, stream):
    """Stands where `position` bits were read and the window held `value`: an entry point."""
    at = np.int64(position >> 3)
    ready = np.int64(0)
    if position & 7:
        ready = 8 - np.int64(position & 7)
        byte = np.int64(data[at]) if at < len(data) else np.int64(0)
        value = (value << ready) | (byte & ((1 << ready) - 1))
        at += 1
    value, ready, at = refill(data, np.int64(value), ready, at)
    stream[0], stream[1], stream[2], stream[3] = value, 256, ready, at


@no_type_check
@kernel
def read_rows(data, skipped, unary, stream):
    """Decodes which rows are all zero; returns whether the payload says any."""
    contexts = GREATER + 2 * unary + PREFIXES + 2
    models = np.empty((contexts, 4), np.int32)
    start_contexts(np.zeros(contexts, np.uint8), models)
    value, width, ready, at = stream[0], stream[1], stream[2], stream[3]
    skips, value, ready, at = decode_bypass(data, value, width, ready, at)
    if skips:
        for row in range(len(skipped)):
            skipped[row], value, width, ready, at = decode_bin(
                np.uint32(contexts - 1), models, data, value, width, ready, at
            )
            if at > len(data) + PAST_END:
                break
    stream[0], stream[1], stream[2], stream[3] = value, width, ready, at
    return skips


@no_type_check
@kernel
def read_sets(data, named, sets, stream):
    """Decodes the set that each context starts from, of those that `named` says are named."""
    last = len(sets) - 2
    models = np.empty((len(sets), 4), np.int32)
    start_contexts(np.zeros(len(sets), np.uint8), models)
    value, width, ready, at = stream[0], stream[1], stream[2], stream[3]
    for context in range(last):
        if not named[context]:
            continue
        bit, value, width, ready, at = decode_bin(
            np.uint32(last), models, data, value, width, ready, at
        )
        if bit:
            chosen, value, ready, at = _read_bits(3, data, value, width, ready, at)
            sets[context] = chosen + 1
    stream[0], stream[1], stream[2], stream[3] = value, width, ready, at


@no_type_check
@kernel
def read_levels(data, models, row, skipped, dependent, unary, limits, path, stream, levels):
    """Decodes all of `levels`, from and to the states in `stream` and `path`.

    `row` is 0 where no row is skipped. `path` holds the class of the level before and the
    state of the trellis. Returns what went wrong (OK, OVERRUN, OVERFLOW), and the index of
    the level where it did.
    """
    value, width, ready, at = stream[0], stream[1], stream[2], stream[3]
    neighbour, trellis = path[0], path[1]
    count = len(levels)
    next_row = np.int64(0) if row else np.int64(count)
    signed = limits[ZERO] > 0 and limits[ONE] > 0
    i = np.int64(0)
    while i < count:
        if i == next_row:
            next_row += row
            if skipped[i // row]:
                levels[i:next_row] = 0
                trellis = pass_zeros(row, dependent, trellis)
                i = next_row
                continue
        bit, value, width, ready, at = decode_bin(
            np.uint32(3 * trellis + neighbour), models, data, value, width, ready, at
        )
        level = np.int64(0)
        if bit:
            negative = np.int64(limits[ZERO] > 0)
            if signed:
                negative, value, width, ready, at = decode_bin(
                    np.uint32(SIGN + neighbour), models, data, value, width, ready, at
                )
            level, value, width, ready, at = _read_level(
                negative, limits[np.uint32(1 - negative)], unary, models, data,
                value, width, ready, at,
            )  # fmt: skip
            if level == 0:
                return OVERFLOW, i
            neighbour = 2 - negative
        else:
            neighbour = np.int64(0)
        if dependent:
            odd = trellis & 1
            trellis = np.int64(TRELLIS[np.uint32(trellis), np.uint32(level & 1)])
            if level != 0:
                level = 2 * level + (odd if level < 0 else -odd)
        if level > 2147483647 or level < -2147483648:
            return OVERFLOW, i
        levels[i] = level
        i += 1
        if at > len(data) + PAST_END:
            stream[3] = at
            return OVERRUN, i
    stream[0], stream[1], stream[2], stream[3] = value, width, ready, at
    path[0], path[1] = neighbour, trellis
    return OK, i


@no_type_check
@kernel
def read_end(data, stream):
    """Checks what follows the last level; returns what went wrong, and the bytes read."""
    value, width, ready, at = stream[0], stream[1], stream[2], stream[3]
    if value < ((width - 2) << ready):
        return NO_END, at
    # The last of the current 9 bits is the stop bit, and zeros fill its byte.
    bits = 8 * at - ready
    used = (bits + 7) >> 3
    if used > len(data):
        return OVERRUN, used
    if ((np.int64(data[used - 1]) << ((bits - 1) & 7)) & 255) != 128:
        return NO_END, used
    return OK, used
