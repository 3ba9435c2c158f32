"""Floats in lanes, and lanes to and from memory."""

# Numba fixes the parameters of an intrinsic and of what generates it, used or not.
# ruff: noqa: ARG001

from typing import Final

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tersenet.formats.lanes.registers import (
    FLOAT_LANES,
    FLOATS,
    INT,
    LANES,
    WORD_LANES,
    WORDS,
    address,
    call,
    splat,
)

__all__ = [
    "AHEAD",
    "add",
    "broadcast",
    "load_floats",
    "load_halves",
    "load_words",
    "multiply_add",
    "pointer",
    "prefetch",
    "store_floats",
    "store_words",
    "zeros",
]

AHEAD: Final = 2048
"""Words, 8 KiB, between what a kernel reads and what it asks the memory for."""


@intrinsic
def load_floats(typingctx, array, index):
    """Sixteen consecutive elements of a float32 array."""

    def generate(context, builder, signature, args):
        value = builder.load(
            address(context, builder, signature.args[0], args[0], args[1], FLOAT_LANES)
        )
        value.align = 4
        return value

    return FLOATS(array, types.intp), generate


@intrinsic
def load_words(typingctx, array, index):
    """Sixteen consecutive elements of a uint32 array."""

    def generate(context, builder, signature, args):
        value = builder.load(
            address(context, builder, signature.args[0], args[0], args[1], WORD_LANES)
        )
        value.align = 4
        return value

    return WORDS(array, types.intp), generate


@intrinsic
def load_halves(typingctx, array, index):
    """Sixteen consecutive elements of a uint16 array, widened."""
    narrow = ir.VectorType(ir.IntType(16), LANES)

    def generate(context, builder, signature, args):
        value = builder.load(address(context, builder, signature.args[0], args[0], args[1], narrow))
        value.align = 2
        return builder.zext(value, WORD_LANES)

    return WORDS(array, types.intp), generate


@intrinsic
def pointer(typingctx, address, kind):
    """Where a number says that an array of `kind` lies: what `numba.carray` makes one of."""
    if not isinstance(kind, types.NumberClass):
        return None
    found = types.CPointer(kind.dtype)

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(found))

    return found(types.int64, kind), generate


@intrinsic
def store_floats(typingctx, array, index, value):
    """Writes sixteen consecutive elements of a float32 array."""

    def generate(context, builder, signature, args):
        place = address(context, builder, signature.args[0], args[0], args[1], FLOAT_LANES)
        builder.store(args[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, FLOATS), generate


@intrinsic
def broadcast(typingctx, scalar):
    """The same float32 in every lane."""

    def generate(context, builder, signature, args):
        return splat(builder, args[0], FLOAT_LANES)

    return FLOATS(types.float32), generate


@intrinsic
def zeros(typingctx):
    """0.0 in every lane."""

    def generate(context, builder, signature, args):
        return ir.Constant(FLOAT_LANES, [0.0] * LANES)

    return FLOATS(), generate


@intrinsic
def add(typingctx, first, second):
    """Sums of float lanes."""

    def generate(context, builder, signature, args):
        return builder.fadd(*args)

    return FLOATS(FLOATS, FLOATS), generate


@intrinsic
def multiply_add(typingctx, first, second, third):
    """Fused first * second + third: one rounding, where the processor can."""

    def generate(context, builder, signature, args):
        return call(builder, "llvm.fmuladd.v16f32", FLOAT_LANES, list(args))

    return FLOATS(FLOATS, FLOATS, FLOATS), generate


@intrinsic
def prefetch(typingctx, array, index):
    """Asks for a line of a word array long before it is read.

    Kernels ask `AHEAD` words ahead: the processor's own prefetching stays too close to a stream
    that is consumed at some tens of GB/s, and memory-bound products took twice as long without.
    An address beyond the array is no error, but for nothing.
    """

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, INT, INT, INT])
        function = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        builder.call(function, [place, INT(0), INT(3), INT(1)])  # read, keep, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def store_words(typingctx, array, index, value):
    """Writes sixteen consecutive elements of a uint32 or int32 array."""

    def generate(context, builder, signature, args):
        place = address(context, builder, signature.args[0], args[0], args[1], WORD_LANES)
        builder.store(args[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, WORDS), generate
