"""Sixteen lanes at once inside Numba: what the fast kernels are written in.

Numba's own vectoriser turns a table look-up into sixteen loads. The processor can do it in one
instruction when the table lies in a register, so this file gives Numba two types, 16 × float32
and 16 × uint32, and the dozen operations on them that the kernels need. They compile to AVX-512,
to AVX2, or to plain LLVM for any other processor: always right, and fast where the instruction
exists.

Inside a jitted function the operations look like ordinary calls:

    word = load_words(words, at)
    total = multiply_add(lookup16(table, word), broadcast(x[column]), total)

Numba's cache watches the file of a kernel, not this one: after a change here, remove
`__pycache__` beside it.
"""

# Numba fixes the parameters of an intrinsic and of what generates it, used or not.
# ruff: noqa: ARG001

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

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
    "low_nibbles",
    "lookup16",
    "lookup32",
    "lookup64",
    "multiply_add",
    "no_words",
    "plus",
    "prefetch",
    "popcount",
    "shifted",
    "store_floats",
    "store_words",
    "zeros",
]

LANES: Final = 16
AHEAD: Final = 2048
"""Words, 8 KiB, between what a kernel reads and what it asks the memory for."""


def _features() -> frozenset[str]:
    # What Numba compiles for, which NUMBA_CPU_NAME can set below what the machine has.
    context: Any = cpu_target.target_context
    return frozenset(context.codegen().magic_tuple()[2].split(","))


def _instructions() -> str:
    if "+avx512f" in _features():
        return "avx512"
    return "avx2" if "+avx2" in _features() else "any"


BYTE_DOT: Final = {"+avx512f", "+avx512vnni"} <= _features()
"""Whether `dot_bytes` is one instruction."""
INSTRUCTIONS: Final = _instructions()
"""The instruction set that kernels are compiled for: avx512, avx2 or any."""

_INT: Final = ir.IntType(32)
_FLOATS: Final = ir.VectorType(ir.FloatType(), LANES)
_WORDS: Final = ir.VectorType(_INT, LANES)
_HALF_FLOATS: Final = ir.VectorType(ir.FloatType(), 8)
_HALF_WORDS: Final = ir.VectorType(_INT, 8)


class _Lanes(types.Type):
    """Numba's view of sixteen lanes."""

    def __init__(self, kind: str) -> None:
        self.vector = _FLOATS if kind == "float32" else _WORDS
        super().__init__(name=f"lanes({kind})")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, fe_type.vector)


FLOATS: Final = _Lanes("float32")
WORDS: Final = _Lanes("uint32")


def _call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _at(context: Any, builder: Any, kind: Any, array: Any, index: Any, vector: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _splat(builder: Any, scalar: Any, vector: Any) -> Any:
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(_WORDS, [0] * LANES))


def _part(builder: Any, vector: Any, first: int) -> Any:
    mask = ir.Constant(_HALF_WORDS, list(range(first, first + 8)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def _lookup(builder: Any, tables: list[Any], index: Any) -> Any:
    """Picks from 16 or 32 floats by the low 4 or 5 bits of each lane."""
    if INSTRUCTIONS == "avx512":
        if len(tables) == 1:
            name = "llvm.x86.avx512.permvar.sf.512"
            return _call(builder, name, _FLOATS, [tables[0], index])
        name = "llvm.x86.avx512.vpermi2var.ps.512"
        return _call(builder, name, _FLOATS, [tables[0], index, tables[1]])
    if INSTRUCTIONS == "avx2":
        return _lookup_avx2(builder, tables, index)
    low = builder.and_(index, ir.Constant(_WORDS, [16 * len(tables) - 1] * LANES))
    table = tables[0]
    if len(tables) == 2:
        both = ir.Constant(ir.VectorType(_INT, 32), list(range(32)))
        table = builder.shuffle_vector(tables[0], tables[1], both)
    out: Any = ir.Constant(_FLOATS, ir.Undefined)
    for lane in range(LANES):
        place = ir.Constant(_INT, lane)
        picked = builder.extract_element(table, builder.extract_element(low, place))
        out = builder.insert_element(out, picked, place)
    return out


def _lookup_avx2(builder: Any, tables: list[Any], index: Any) -> Any:
    """Eight floats a register: look up in each, then choose by the bits above the third."""
    halves = []
    for first in (0, 8):
        lanes = _part(builder, index, first)
        found = [
            _call(builder, "llvm.x86.avx2.permps", _HALF_FLOATS, [_part(builder, t, f), lanes])
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
    return builder.shuffle_vector(*halves, ir.Constant(_WORDS, list(range(LANES))))


@intrinsic
def load_floats(typingctx, array, index):
    """Sixteen consecutive elements of a float32 array."""

    def generate(context, builder, signature, args):
        value = builder.load(_at(context, builder, signature.args[0], args[0], args[1], _FLOATS))
        value.align = 4
        return value

    return FLOATS(array, types.intp), generate


@intrinsic
def load_words(typingctx, array, index):
    """Sixteen consecutive elements of a uint32 array."""

    def generate(context, builder, signature, args):
        value = builder.load(_at(context, builder, signature.args[0], args[0], args[1], _WORDS))
        value.align = 4
        return value

    return WORDS(array, types.intp), generate


@intrinsic
def load_halves(typingctx, array, index):
    """Sixteen consecutive elements of a uint16 array, widened."""
    narrow = ir.VectorType(ir.IntType(16), LANES)

    def generate(context, builder, signature, args):
        value = builder.load(_at(context, builder, signature.args[0], args[0], args[1], narrow))
        value.align = 2
        return builder.zext(value, _WORDS)

    return WORDS(array, types.intp), generate


@intrinsic
def store_floats(typingctx, array, index, value):
    """Writes sixteen consecutive elements of a float32 array."""

    def generate(context, builder, signature, args):
        place = _at(context, builder, signature.args[0], args[0], args[1], _FLOATS)
        builder.store(args[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, FLOATS), generate


@intrinsic
def broadcast(typingctx, scalar):
    """The same float32 in every lane."""

    def generate(context, builder, signature, args):
        return _splat(builder, args[0], _FLOATS)

    return FLOATS(types.float32), generate


@intrinsic
def no_words(typingctx):
    """0 in every lane."""

    def generate(context, builder, signature, args):
        return ir.Constant(_WORDS, [0] * LANES)

    return WORDS(), generate


@intrinsic
def zeros(typingctx):
    """0.0 in every lane."""

    def generate(context, builder, signature, args):
        return ir.Constant(_FLOATS, [0.0] * LANES)

    return FLOATS(), generate


@intrinsic
def shifted(typingctx, words, bits):
    """Every lane shifted right by a constant number of bits."""
    if not isinstance(bits, types.IntegerLiteral):
        return None
    distance = ir.Constant(_WORDS, [bits.literal_value] * LANES)

    def generate(context, builder, signature, args):
        return builder.lshr(args[0], distance)

    return WORDS(WORDS, bits), generate


@intrinsic
def plus(typingctx, first, second):
    """Sums of unsigned lanes."""

    def generate(context, builder, signature, args):
        return builder.add(*args)

    return WORDS(WORDS, WORDS), generate


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
        return _call(builder, "llvm.fmuladd.v16f32", _FLOATS, list(args))

    return FLOATS(FLOATS, FLOATS, FLOATS), generate


@intrinsic
def lookup16(typingctx, table, index):
    """table[index & 15], the table in one register."""

    def generate(context, builder, signature, args):
        return _lookup(builder, [args[0]], args[1])

    return FLOATS(FLOATS, WORDS), generate


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
        bit = builder.and_(index, ir.Constant(_WORDS, [32] * LANES))
        high = builder.icmp_unsigned("!=", bit, ir.Constant(_WORDS, [0] * LANES))
        return builder.select(high, upper, lower)

    return FLOATS(FLOATS, FLOATS, FLOATS, FLOATS, WORDS), generate


@intrinsic
def gather(typingctx, array, index):
    """array[index] of a float32 array in memory, lane by lane."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        if INSTRUCTIONS == "avx512":
            return _gather_avx512(builder, data, args[1])
        out: Any = ir.Constant(_FLOATS, ir.Undefined)
        for lane in range(LANES):
            place = ir.Constant(_INT, lane)
            at = builder.zext(builder.extract_element(args[1], place), ir.IntType(64))
            out = builder.insert_element(out, builder.load(builder.gep(data, [at])), place)
        return out

    return FLOATS(array, WORDS), generate


def _gather_avx512(builder: Any, data: Any, index: Any) -> Any:
    return _call(
        builder,
        "llvm.x86.avx512.gather.dps.512",
        _FLOATS,
        [
            ir.Constant(_FLOATS, [0.0] * LANES),
            builder.bitcast(data, ir.IntType(8).as_pointer()),
            index,
            ir.Constant(ir.IntType(16), -1),  # every lane
            ir.Constant(_INT, 4),  # bytes from one element to the next
        ],
    )


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
        kind = ir.FunctionType(ir.VoidType(), [place.type, _INT, _INT, _INT])
        function = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        builder.call(function, [place, _INT(0), _INT(3), _INT(1)])  # read, keep, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


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
        return _splat(builder, args[0], _WORDS)

    return WORDS(types.uint32), generate


@intrinsic
def low_nibbles(typingctx, words):
    """Every byte without its upper four bits."""

    def generate(context, builder, signature, args):
        return builder.and_(args[0], ir.Constant(_WORDS, [0x0F0F0F0F] * LANES))

    return WORDS(WORDS), generate


@intrinsic
def dot_bytes(typingctx, total, unsigned, signed):
    """Adds to each lane the products of its four unsigned bytes with four signed ones."""

    def generate(context, builder, signature, args):
        if BYTE_DOT:
            # Words for bytes: the signature of old, which newer LLVM still reads.
            return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _WORDS, list(args))
        total, top = args[0], ir.Constant(_WORDS, [24] * LANES)
        for place in range(4):
            up = ir.Constant(_WORDS, [24 - 8 * place] * LANES)
            first = builder.lshr(builder.shl(args[1], up), top)
            second = builder.ashr(builder.shl(args[2], up), top)
            total = builder.add(total, builder.mul(first, second))
        return total

    return WORDS(WORDS, WORDS, WORDS), generate


@intrinsic
def store_words(typingctx, array, index, value):
    """Writes sixteen consecutive elements of a uint32 or int32 array."""

    def generate(context, builder, signature, args):
        place = _at(context, builder, signature.args[0], args[0], args[1], _WORDS)
        builder.store(args[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, WORDS), generate
