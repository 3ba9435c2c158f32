"""The loops of `Tiled`: lines filled, read back, and multiplied."""

from typing import Any, no_type_check

import numpy as np
from numba import carray, njit  # pyright: ignore[reportPrivateImportUsage]

from tersenet.formats.fast.base import align_vector
from tersenet.formats.fast.sliced import omitted_sum, sum_sliced
from tersenet.formats.lanes import (
    AHEAD,
    add,
    broadcast,
    gather,
    load_floats,
    load_words,
    lookup32,
    lookup64,
    multiply_add,
    pointer,
    prefetch,
    shift_right,
    signed_field,
    store_floats,
    zeros,
)

__all__ = ["fill", "lines_needed", "multiply", "put"]


@njit(cache=True, nogil=True)
@no_type_check
def lines_needed(codes, width, slots, worth):
    """(slab, block): lines to store, each of at least `worth` elements."""
    needed = np.zeros((codes.shape[0] // 16, codes.shape[1] // width), np.int64)
    counts = np.zeros(16, np.int64)
    for slab in range(needed.shape[0]):
        for block in range(needed.shape[1]):
            for lane in range(16):
                counts[lane] = 0
                for column in range(block * width, (block + 1) * width):
                    counts[lane] += codes[slab * 16 + lane, column] != 0
            while True:
                taken = 0
                for lane in range(16):
                    taken += min(slots, max(0, counts[lane] - slots * needed[slab, block]))
                if taken < worth:
                    break
                needed[slab, block] += 1
    return needed


@njit(cache=True, nogil=True)
@no_type_check
def fill(codes, width, slots, slot_bits, needed, panel, starts, lines, blocks):
    """Moves elements from `codes` to `lines`, as far as their tile has slots; `panel` in tiles."""
    code_at = 5 if width == 32 else 6
    slabs, tiles = needed.shape
    for part in range(len(starts) - 1):
        slab, first, visit = part % slabs, part // slabs * panel, starts[part]
        for block in range(first, min(first + panel, tiles)):
            room = slots * needed[slab, block]
            for lane in range(16):
                slot = 0
                for column in range(width):
                    code = codes[slab * 16 + lane, block * width + column]
                    if code == 0 or slot == room:
                        continue
                    entry = (np.uint32(code) << np.uint32(code_at)) | np.uint32(column)
                    shift = np.uint32(slot_bits * (slot % slots))
                    lines[visit + slot // slots, lane] |= entry << shift
                    codes[slab * 16 + lane, block * width + column] = 0
                    slot += 1
            for line in range(needed[slab, block]):
                blocks[visit + line] = block
            visit += needed[slab, block]


@njit(cache=True, nogil=True)
@no_type_check
def put(lines, width, slots, slot_bits, blocks, starts, order, codes):
    """Writes the codes of the lines back to their places."""
    code_at = 5 if width == 32 else 6
    most = (1 << (slot_bits - code_at)) - 1
    slabs = (len(order) + 15) // 16
    for part in range(len(starts) - 1):
        for place in range(part % slabs * 16, min(part % slabs * 16 + 16, len(order))):
            for visit in range(starts[part], starts[part + 1]):
                for slot in range(slots):
                    entry = np.int64(lines[visit, place % 16]) >> (slot_bits * slot)
                    code = (entry >> code_at) & most
                    if code:
                        column = np.int64(blocks[visit]) * width + (entry & (width - 1))
                        codes[order[place], column] = code


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _sum_narrow(lines, blocks, starts, table, x, sums):
    """Adds the product of the lines with x to `sums`, two visits at a time."""
    t, u = load_floats(table, 0), load_floats(table, 16)
    for part in range(len(starts) - 1):
        at = part * 16 % len(sums)
        a, b, c, d, e, f = load_floats(sums, at), zeros(), zeros(), zeros(), zeros(), zeros()
        for visit in range(starts[part], starts[part + 1], 2):
            prefetch(lines, visit * 16 + AHEAD)
            prefetch(lines, visit * 16 + AHEAD + 16)
            j = np.intp(blocks[visit]) * 32
            p, q = load_floats(x, j), load_floats(x, j + 16)
            w = load_words(lines, visit * 16)
            a = multiply_add(lookup32(p, q, w), lookup32(t, u, shift_right(w, 5)), a)
            w = shift_right(w, 10)
            b = multiply_add(lookup32(p, q, w), lookup32(t, u, shift_right(w, 5)), b)
            w = shift_right(w, 10)
            c = multiply_add(lookup32(p, q, w), lookup32(t, u, shift_right(w, 5)), c)
            j = np.intp(blocks[visit + 1]) * 32
            p, q = load_floats(x, j), load_floats(x, j + 16)
            w = load_words(lines, visit * 16 + 16)
            d = multiply_add(lookup32(p, q, w), lookup32(t, u, shift_right(w, 5)), d)
            w = shift_right(w, 10)
            e = multiply_add(lookup32(p, q, w), lookup32(t, u, shift_right(w, 5)), e)
            w = shift_right(w, 10)
            f = multiply_add(lookup32(p, q, w), lookup32(t, u, shift_right(w, 5)), f)
        store_floats(sums, at, add(add(add(a, b), add(c, d)), add(e, f)))


@njit(cache=True, nogil=True, forceinline=True)
@no_type_check
def _element(low, high, words, slot_bits):
    """The values of the elements in the lower bits: looked up, or steps of an even grid."""
    if slot_bits == 16:
        return signed_field(words, 6, 10)
    return lookup32(low, high, shift_right(words, 6))


def _wide(slot_bits: int) -> Any:
    """The same for tiles of 64 columns, compiled for elements of 11 bits or 16.

    Those of 16 bits hold steps of an even grid, summed in units of it: no table, whatever their
    number.
    """

    @njit(cache=True, nogil=True, error_model="numpy")
    @no_type_check
    def sum_wide(lines, blocks, starts, table, x, sums):
        t, u = load_floats(table, 0), load_floats(table, 16)
        for part in range(len(starts) - 1):
            at = part * 16 % len(sums)
            a, b, c, d = load_floats(sums, at), zeros(), zeros(), zeros()
            for visit in range(starts[part], starts[part + 1], 2):
                prefetch(lines, visit * 16 + AHEAD)
                prefetch(lines, visit * 16 + AHEAD + 16)
                j = np.intp(blocks[visit]) * 64
                p, q = load_floats(x, j), load_floats(x, j + 16)
                r, s = load_floats(x, j + 32), load_floats(x, j + 48)
                w = load_words(lines, visit * 16)
                v = _element(t, u, w, slot_bits)
                a = multiply_add(lookup64(p, q, r, s, w), v, a)
                w = shift_right(w, slot_bits)
                v = _element(t, u, w, slot_bits)
                b = multiply_add(lookup64(p, q, r, s, w), v, b)
                j = np.intp(blocks[visit + 1]) * 64
                p, q = load_floats(x, j), load_floats(x, j + 16)
                r, s = load_floats(x, j + 32), load_floats(x, j + 48)
                w = load_words(lines, visit * 16 + 16)
                v = _element(t, u, w, slot_bits)
                c = multiply_add(lookup64(p, q, r, s, w), v, c)
                w = shift_right(w, slot_bits)
                v = _element(t, u, w, slot_bits)
                d = multiply_add(lookup64(p, q, r, s, w), v, d)
            store_floats(sums, at, add(add(a, b), add(c, d)))

    return sum_wide


_sum_wide, _sum_steps = _wide(11), _wide(16)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def multiply(vector, out, plan, omitted_value):
    """Brings the sums of tiles and remainder to their rows, sixteen at a time.

    The plan has address and elements of lines, blocks, starts, places, the remainder's entries,
    starts and places, and the table; then the width of a tile and the bits of a slot.
    """
    lines = carray(pointer(plan[0], np.uint32), plan[1])
    blocks = carray(pointer(plan[2], np.uint16), plan[3])
    starts = carray(pointer(plan[4], np.int64), plan[5])
    places = carray(pointer(plan[6], np.uint32), plan[7])
    table = carray(pointer(plan[14], np.float32), plan[15])
    width, slot_bits = plan[16], plan[17]
    x = align_vector(vector, (len(vector) + width - 1) // width * width)
    sums = np.zeros(len(out), np.float32)
    step = broadcast(np.float32(1))
    if slot_bits == 16:
        _sum_steps(lines, blocks, starts, table, x, sums)
        step = broadcast(table[0])
    elif width == 32:
        _sum_narrow(lines, blocks, starts, table, x, sums)
    else:
        _sum_wide(lines, blocks, starts, table, x, sums)
    start = broadcast(omitted_sum(omitted_value, x))
    if plan[9] == 0:
        for first in range(0, len(out), 16):
            found = gather(sums, load_words(places, first))
            store_floats(out, first, multiply_add(found, step, start))
        return
    entries = carray(pointer(plan[8], np.uint16), (plan[9] // 16, 16))
    ends = carray(pointer(plan[10], np.int64), plan[11])
    more_places = carray(pointer(plan[12], np.uint32), plan[13])
    more = np.empty(len(out), np.float32)
    sum_sliced(entries, ends, table, x, more)
    for first in range(0, len(out), 16):
        found = add(gather(sums, load_words(places, first)), start)
        store_floats(out, first, add(found, gather(more, load_words(more_places, first))))
