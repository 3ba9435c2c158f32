"""The loops of `Even`: x as bytes, sums of bytes, and weights decoded for a batch."""

from typing import Any, Final, no_type_check

import numpy as np
from numba import njit

from tersenet.formats.lanes import (
    AHEAD,
    broadcast,
    broadcast_word,
    dot_bytes,
    load_words,
    low_bytes,
    low_nibbles,
    multiply_add,
    no_words,
    prefetch,
    shift_right,
    signed_field,
    store_floats,
    store_words,
)

__all__ = ["DECODERS", "multiply"]


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _to_bytes(x, planes):
    """Writes x as three signed bytes; returns what one unit of the last is worth, and Σx."""
    largest, total = np.float32(0), 0.0
    for at in range(len(x)):
        largest = max(largest, abs(x[at]))
    unit = np.float64(largest) / 8323072  # 127 · 2**16: the top byte stays in range
    scale = 1 / unit if largest > 0 else 0.0
    for at in range(len(x)):
        whole = np.int32(np.rint(x[at] * scale))
        total += whole
        middle = (whole + 128) >> 8
        high = (middle + 128) >> 8
        planes[0, at] = whole - (middle << 8)
        planes[1, at] = middle - (high << 8)
        planes[2, at] = high
    return unit, total * unit


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _join(lines, low, middle, high, scale, offset, out, first):
    """Sums of the three bytes as one, sixteen rows of them."""
    store_words(lines, 0, low)
    store_words(lines, 16, middle)
    store_words(lines, 32, high)
    for lane in range(16):
        total = lines[lane] + 256.0 * lines[16 + lane] + 65536.0 * lines[32 + lane]
        out[first + lane] = total * scale + offset


def _product(bits: int) -> Any:
    """The kernel for codes of 4 bits or of 8, compiled for these.

    Two slabs at a time: six sums each that wait for nothing of one another.
    """
    codes = 8 // bits

    @njit(cache=True, nogil=True, error_model="numpy")
    @no_type_check
    def multiply_bytes(words, low, middle, high, scale, offset, out):
        flat = words.reshape(-1)
        width = words.shape[1]
        lines = np.empty(48, np.int32)
        for slab in range(0, words.shape[0], 2):
            a, b, c = no_words(), no_words(), no_words()
            d, e, f = no_words(), no_words(), no_words()
            at = slab * width * 16
            for group in range(width):
                prefetch(flat, at + AHEAD)
                prefetch(flat, at + width * 16 + AHEAD)
                p, q = load_words(flat, at), load_words(flat, at + width * 16)
                at += 16
                r, s = low_nibbles(shift_right(p, 4)), low_nibbles(shift_right(q, 4))
                if codes == 2:
                    p, q = low_nibbles(p), low_nibbles(q)
                k = codes * group
                x, y, z = low[k], middle[k], high[k]
                x, y, z = broadcast_word(x), broadcast_word(y), broadcast_word(z)
                a, b, c = dot_bytes(a, p, x), dot_bytes(b, p, y), dot_bytes(c, p, z)
                d, e, f = dot_bytes(d, q, x), dot_bytes(e, q, y), dot_bytes(f, q, z)
                if codes == 2:
                    x, y, z = low[k + 1], middle[k + 1], high[k + 1]
                    x, y, z = broadcast_word(x), broadcast_word(y), broadcast_word(z)
                    a, b, c = dot_bytes(a, r, x), dot_bytes(b, r, y), dot_bytes(c, r, z)
                    d, e, f = dot_bytes(d, s, x), dot_bytes(e, s, y), dot_bytes(f, s, z)
            _join(lines, a, b, c, scale, offset, out, slab * 16)
            _join(lines, d, e, f, scale, offset, out, slab * 16 + 16)

    return multiply_bytes


_multiply4, _multiply8 = _product(4), _product(8)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def multiply(x, out, words, bits, first, step):
    """Writes the product with x as bytes to `out`, in whole slabs."""
    planes = np.zeros((3, words.shape[1] * (32 // bits)), np.int8)
    unit, total = _to_bytes(x, planes)
    low = planes[0].view(np.uint32)
    middle, high = planes[1].view(np.uint32), planes[2].view(np.uint32)
    if bits == 4:
        _multiply4(words, low, middle, high, unit * step, total * first, out)
    else:
        _multiply8(words, low, middle, high, unit * step, total * first, out)


def _decoder(bits: int) -> Any:
    """The kernel that writes first + k · step to (column, row), by the order of codes in a word."""
    columns = 32 // bits

    @njit(cache=True, nogil=True, error_model="numpy")
    @no_type_check
    def decode(first, step, words, out):
        a, b = broadcast(np.float32(first)), broadcast(np.float32(step))
        lines, values, height = words.reshape(-1), out.reshape(-1), out.shape[1]
        at = 0
        for slab in range(words.shape[0]):
            for group in range(words.shape[1]):
                place = slab * 16 + group * columns * height
                w = load_words(lines, at)
                at += 16
                u = low_nibbles(shift_right(w, 4))
                if columns == 8:
                    w = low_nibbles(w)
                for _ in range(4):
                    k = signed_field(low_bytes(w), 0, 9)
                    store_floats(values, place, multiply_add(k, b, a))
                    if columns == 8:
                        k = signed_field(low_bytes(u), 0, 9)
                        store_floats(values, place + 4 * height, multiply_add(k, b, a))
                    w, u = shift_right(w, 8), shift_right(u, 8)
                    place += height

    return decode


DECODERS: Final = {bits: _decoder(bits) for bits in (4, 8)}
