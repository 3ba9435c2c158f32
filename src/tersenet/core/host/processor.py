"""What a processor's instruction sets mean for compressed files, in words.

Which instructions decide, and why weights keep 7 bits without an 8-bit dot product: vpmaddubsw adds
two products of unsigned and signed bytes in 16 bits, 2 × 255 × 127 > 32,767, where VNNI's vpdpbusd
adds four in 32 bits. ARM's like of it is SDOT/UDOT (dotprod); i8mm multiplies whole blocks.
"""

from collections.abc import Collection
from typing import Final

__all__ = ["has_int8_dot", "meaning"]

_INT8_DOT: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})

_FASTER: Final = (
    "int8 files are smaller here and can be faster than float ones, and weights keep all 8 bits"
)
_SEVEN: Final = "weights are quantised to 7 bits so that sums of products do not overflow"
_HARDLY: Final = (
    f"int8 files are smaller here but hardly faster than float ones, if at all, and {_SEVEN}"
)


def has_int8_dot(isa: Collection[str]) -> bool:
    """Whether 8-bit products are summed in 32 bits (no saturation, and faster)."""
    return not _INT8_DOT.isdisjoint(isa)


def meaning(isa: Collection[str]) -> str:
    """Returns what a processor has and lacks, and what follows from it, in one sentence.

    Args:
        isa: its instruction sets, by the names that Linux gives them.
    """
    if not isa:
        return (
            "Which vector instructions this processor has is not known, so "
            "weights are quantised to 7 bits to be safe from sums that overflow, and only a "
            "measurement tells whether int8 files are faster here."
        )
    follows = _FASTER if has_int8_dot(isa) else _HARDLY
    if any(name.startswith(("asimd", "sve")) for name in isa):
        return f"This processor has {_arm(isa)}: {follows}."
    if "avx2" not in isa and not has_int8_dot(isa):
        return (
            "This processor has neither AVX2, AVX-512 nor 8-bit dot products (VNNI): everything "
            f"is several times slower here than on newer ones, {_HARDLY}."
        )
    return f"This processor has {_x86(isa)}: {follows}."


def _x86(isa: Collection[str]) -> str:
    wide = "AVX-512" if any(name.startswith("avx512") for name in isa) else "AVX2"
    if not has_int8_dot(isa):
        if wide == "AVX-512":
            return "AVX-512 but no 8-bit dot products (VNNI)"
        return "AVX2 but neither AVX-512 nor 8-bit dot products (VNNI)"
    dot = "8-bit dot products (VNNI)"
    if "amx_int8" in isa:
        dot = "8-bit matrix products (AMX)"
    return f"{wide} and {dot}" + (" but no AVX-512" if wide == "AVX2" else "")


def _arm(isa: Collection[str]) -> str:
    units = "NEON and SVE" if "sve" in isa or "sve2" in isa else "NEON"
    if not has_int8_dot(isa):
        return f"{units} but no 8-bit dot products (dotprod)"
    if "i8mm" in isa:
        return f"{units}, 8-bit dot products (dotprod) and 8-bit matrix products (i8mm)"
    return f"{units} and 8-bit dot products (dotprod) but no 8-bit matrix products (i8mm)"
