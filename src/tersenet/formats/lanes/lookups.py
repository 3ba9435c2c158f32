"""Sixteen reads at once: from a table in registers, or from memory.

Numba's own vectoriser turns a table look-up into sixteen loads. The processor can do it in one
instruction when the table lies in a register.
"""

# Numba fixes the parameters of an intrinsic and of what generates it, used or not.
# ruff: noqa: ARG001

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tersenet.formats.lanes.registers import (
    FLOAT_LANES,
    FLOATS,
    INSTRUCTIONS,
    INT,
    LANES,
    WORD_LANES,
    WORDS,
    call,
    fill_words,
)

__all__ = ["gather", "lookup32", "lookup64", "value_of"]

_HALF_FLOATS: Final = ir.VectorType(ir.FloatType(), 8)
_HALF_WORDS: Final = ir.VectorType(INT, 8)


def _lookup(builder: Any, tables: list[Any], index: Any) -> Any:
    """Picks from 16 or 32 floats by the low 4 or 5 bits of each lane."""
    if INSTRUCTIONS == "avx512":
        if len(tables) == 1:
            name = "llvm.x86.avx512.permvar.sf.512"
            return call(builder, name, FLOAT_LANES, [tables[0], index])
        name = "llvm.x86.avx512.vpermi2var.ps.512"
        return call(builder, name, FLOAT_LANES, [tables[0], index, tables[1]])
    if INSTRUCTIONS == "avx2":
        return _lookup_avx2(builder, tables, index)
    low = builder.and_(index, fill_words(16 * len(tables) - 1))
    table = tables[0]
    if len(tables) == 2:
        both = ir.Constant(ir.VectorType(INT, 32), list(range(32)))
        table = builder.shuffle_vector(tables[0], tables[1], both)
    out: Any = ir.Constant(FLOAT_LANES, ir.Undefined)
    for lane in range(LANES):
        place = ir.Constant(INT, lane)
        picked = builder.extract_element(table, builder.extract_element(low, place))
        out = builder.insert_element(out, picked, place)
    return out


def _lookup_avx2(builder: Any, tables: list[Any], index: Any) -> Any:
    """Eight floats a register: look up in each, then choose by the bits above the third."""
    halves = []
    for first in (0, 8):
        lanes = _part(builder, index, first)
        found = [
            call(builder, "llvm.x86.avx2.permps", _HALF_FLOATS, [_part(builder, t, f), lanes])
            for t in tables
            for f in (0, 8)
        ]
        bit = 8
        while len(found) > 1:
            mask = ir.Constant(_HALF_WORDS, [bit] * 8)
            zero = ir.Constant(_HALF_WORDS, [0] * 8)
            high = builder.icmp_unsigned("!=", builder.and_(lanes, mask), zero)
            pairs = zip(found[::2], found[1::2], strict=True)
            found = [builder.select(high, upper, lower) for lower, upper in pairs]
            bit *= 2
        halves.append(found[0])
    return builder.shuffle_vector(*halves, ir.Constant(WORD_LANES, list(range(LANES))))


def _part(builder: Any, vector: Any, first: int) -> Any:
    mask = ir.Constant(_HALF_WORDS, list(range(first, first + 8)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


@intrinsic
def lookup32(typingctx, lower, upper, index):
    """The 32 floats of lower and upper, picked by index & 31."""

    def generate(context, builder, signature, args):
        return _lookup(builder, [args[0], args[1]], args[2])

    return FLOATS(FLOATS, FLOATS, WORDS), generate


@intrinsic
def lookup64(typingctx, first, second, third, fourth, index):
    """The 64 floats of four registers, picked by index & 63."""

    def generate(context, builder, signature, args):
        index = args[4]
        lower = _lookup(builder, [args[0], args[1]], index)
        upper = _lookup(builder, [args[2], args[3]], index)
        bit = builder.and_(index, fill_words(32))
        high = builder.icmp_unsigned("!=", bit, fill_words(0))
        return builder.select(high, upper, lower)

    return FLOATS(FLOATS, FLOATS, FLOATS, FLOATS, WORDS), generate


@intrinsic
def gather(typingctx, array, index):
    """array[index] of a float32 array in memory, lane by lane."""

    def generate(context, builder, signature, args):
        return _gather(context, builder, signature.args[0], args[0], args[1])

    return FLOATS(array, WORDS), generate


@intrinsic
def value_of(typingctx, table, low, high, words, bits):
    """What the lowest `bits` bits of each lane, 4, 5 or 8 of them, stand for in a table.

    `low` and `high` are its first 32 floats: codes of 4 and 5 bits are looked up in registers,
    those of 8 bits in memory.
    """
    if not isinstance(bits, types.IntegerLiteral):
        return None
    width = bits.literal_value

    def generate(context, builder, signature, args):
        if width <= 5:
            return _lookup(builder, [args[1], args[2]][: 1 << (width - 4)], args[3])
        code = builder.and_(args[3], fill_words((1 << width) - 1))
        return _gather(context, builder, signature.args[0], args[0], code)

    return FLOATS(table, FLOATS, FLOATS, WORDS, bits), generate


def _gather(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    if INSTRUCTIONS == "avx512":
        return _gather_avx512(builder, data, index)
    out: Any = ir.Constant(FLOAT_LANES, ir.Undefined)
    for lane in range(LANES):
        place = ir.Constant(INT, lane)
        at = builder.zext(builder.extract_element(index, place), ir.IntType(64))
        out = builder.insert_element(out, builder.load(builder.gep(data, [at])), place)
    return out


def _gather_avx512(builder: Any, data: Any, index: Any) -> Any:
    return call(
        builder,
        "llvm.x86.avx512.gather.dps.512",
        FLOAT_LANES,
        [
            ir.Constant(FLOAT_LANES, [0.0] * LANES),
            builder.bitcast(data, ir.IntType(8).as_pointer()),
            index,
            ir.Constant(ir.IntType(16), -1),  # every lane
            ir.Constant(INT, 4),  # bytes from one element to the next
        ],
    )
