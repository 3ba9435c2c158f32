"""Integers in lanes: fields of words, sums, and dot products of bytes."""

# Numba fixes the parameters of an intrinsic and of what generates it, used or not.
# ruff: noqa: ARG001

from numba import types
from numba.extending import intrinsic

from tersenet.formats.lanes.registers import (
    BYTE_DOT,
    FLOAT_LANES,
    FLOATS,
    INT,
    WORD_LANES,
    WORDS,
    call,
    fill_words,
    splat,
)

__all__ = [
    "broadcast_word",
    "dot_bytes",
    "low_bytes",
    "low_nibbles",
    "no_words",
    "plus",
    "popcount",
    "shift_right",
    "signed_field",
]


@intrinsic
def no_words(typingctx):
    """0 in every lane."""

    def generate(context, builder, signature, args):
        return fill_words(0)

    return WORDS(), generate


@intrinsic
def shift_right(typingctx, words, bits):
    """Every lane shifted right by the same number of bits, below 32."""

    def generate(context, builder, signature, args):
        distance = builder.trunc(args[1], INT)
        return builder.lshr(args[0], splat(builder, distance, WORD_LANES))

    return WORDS(WORDS, types.int64), generate


@intrinsic
def signed_field(typingctx, words, first, bits):
    """Every lane's signed integer of `bits` bits from bit `first` on, as a float."""
    if not (isinstance(first, types.IntegerLiteral) and isinstance(bits, types.IntegerLiteral)):
        return None
    up, down = 32 - first.literal_value - bits.literal_value, 32 - bits.literal_value

    def generate(context, builder, signature, args):
        field = builder.ashr(builder.shl(args[0], fill_words(up)), fill_words(down))
        return builder.sitofp(field, FLOAT_LANES)

    return FLOATS(WORDS, first, bits), generate


@intrinsic
def plus(typingctx, first, second):
    """Sums of unsigned lanes."""

    def generate(context, builder, signature, args):
        return builder.add(*args)

    return WORDS(WORDS, WORDS), generate


@intrinsic
def popcount(typingctx, word):
    """Set bits of one uint64; LLVM makes a register of them where a loop allows it."""

    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), generate


@intrinsic
def broadcast_word(typingctx, scalar):
    """The same uint32 in every lane."""

    def generate(context, builder, signature, args):
        return splat(builder, args[0], WORD_LANES)

    return WORDS(types.uint32), generate


@intrinsic
def low_bytes(typingctx, words):
    """Every lane's lowest byte."""

    def generate(context, builder, signature, args):
        return builder.and_(args[0], fill_words(0xFF))

    return WORDS(WORDS), generate


@intrinsic
def low_nibbles(typingctx, words):
    """Every byte without its upper four bits."""

    def generate(context, builder, signature, args):
        return builder.and_(args[0], fill_words(0x0F0F0F0F))

    return WORDS(WORDS), generate


@intrinsic
def dot_bytes(typingctx, total, unsigned, signed):
    """Adds to each lane the products of its four unsigned bytes with four signed ones."""

    def generate(context, builder, signature, args):
        if BYTE_DOT:
            # Words for bytes: the signature of old, which newer LLVM still reads.
            return call(builder, "llvm.x86.avx512.vpdpbusd.512", WORD_LANES, list(args))
        total, top = args[0], fill_words(24)
        for place in range(4):
            up = fill_words(24 - 8 * place)
            first = builder.lshr(builder.shl(args[1], up), top)
            second = builder.ashr(builder.shl(args[2], up), top)
            total = builder.add(total, builder.mul(first, second))
        return total

    return WORDS(WORDS, WORDS, WORDS), generate
