"""Sixteen lanes at once inside Numba: the words that the fast kernels are written in.

Numba's own vectoriser turns a table look-up into sixteen loads. The processor can do it in one
instruction when the table lies in a register, so this room gives Numba two types, 16 × float32
and 16 × uint32 (`registers`), and the operations on them that the kernels need: floats and memory
(`floats`), look-ups (`lookups`), integers (`integers`). They compile to AVX-512, to AVX2, or to
plain LLVM for any other processor: always right, and fast where the instruction exists.

Inside a jitted function the operations look like ordinary calls:

    word = load_words(words, at)
    total = multiply_add(lookup32(low, high, word), broadcast(x[column]), total)

Numba's cache watches the file of a kernel, not these: after a change here, remove `__pycache__`
beside the kernels.
"""

from tersenet.formats.lanes.floats import (
    AHEAD,
    add,
    broadcast,
    load_floats,
    load_halves,
    load_words,
    multiply_add,
    pointer,
    prefetch,
    store_floats,
    store_words,
    zeros,
)
from tersenet.formats.lanes.integers import (
    broadcast_word,
    dot_bytes,
    low_bytes,
    low_nibbles,
    no_words,
    plus,
    popcount,
    shift_right,
    signed_field,
)
from tersenet.formats.lanes.lookups import gather, lookup32, lookup64, value_of
from tersenet.formats.lanes.registers import BYTE_DOT, INSTRUCTIONS, LANES

__all__ = [
    "AHEAD",
    "BYTE_DOT",
    "INSTRUCTIONS",
    "LANES",
    "add",
    "broadcast",
    "broadcast_word",
    "dot_bytes",
    "gather",
    "load_floats",
    "load_halves",
    "load_words",
    "lookup32",
    "lookup64",
    "low_bytes",
    "low_nibbles",
    "multiply_add",
    "no_words",
    "plus",
    "pointer",
    "popcount",
    "prefetch",
    "shift_right",
    "signed_field",
    "store_floats",
    "store_words",
    "value_of",
    "zeros",
]
