"""Registers of sixteen lanes as types of Numba, and what is compiled for them.

`floats`, `integers` and `lookups` define their operations on this.
"""

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import models, register_model

__all__ = [
    "BYTE_DOT",
    "FLOATS",
    "FLOAT_LANES",
    "INSTRUCTIONS",
    "INT",
    "LANES",
    "WORDS",
    "WORD_LANES",
    "address",
    "call",
    "fill_words",
    "splat",
]

LANES: Final = 16


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

INT: Final = ir.IntType(32)
FLOAT_LANES: Final = ir.VectorType(ir.FloatType(), LANES)
WORD_LANES: Final = ir.VectorType(INT, LANES)


class _Lanes(types.Type):
    """Numba's view of sixteen lanes."""

    def __init__(self, kind: str) -> None:
        self.vector = FLOAT_LANES if kind == "float32" else WORD_LANES
        super().__init__(name=f"lanes({kind})")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, fe_type.vector)


FLOATS: Final = _Lanes("float32")
WORDS: Final = _Lanes("uint32")


def call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """A call of one of LLVM's own functions, by its name."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def address(context: Any, builder: Any, kind: Any, array: Any, index: Any, vector: Any) -> Any:
    """Where sixteen elements of an array start."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def splat(builder: Any, scalar: Any, vector: Any) -> Any:
    """The same scalar in every lane."""
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, scalar, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, empty, fill_words(0))


def fill_words(word: int) -> Any:
    """A constant with the same word in every lane."""
    return ir.Constant(WORD_LANES, [word] * LANES)
