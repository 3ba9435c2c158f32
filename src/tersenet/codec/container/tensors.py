"""What a tensor becomes in a container: its types, and the coders to choose from.

An array is kept bit for bit. `Quantised` levels are kept level for level and come back as
`level * step` in floating point. Either way each tensor takes the coder that makes it
smallest:

    RAW     the bytes as they are
    CABAC   levels and integers through the arithmetic coder of ISO/IEC 15938-17
    LZMA    structure that repeats: byte planes through LZMA
    ANS     static ANS per byte plane: about ten times as fast as CABAC, larger
    SAME    a tensor equal to an earlier one, as tied weights are
    PARTS   CABAC in parts, which several threads can decode
"""

import lzma
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic import ans
from tersenet.codec.arithmetic.cabac import decode_levels, encode_levels
from tersenet.codec.container.parts import decode_parts, encode_parts
from tersenet.codec.elements import fits, numpy_type
from tersenet.errors import FormatError

Effort = Literal["fast", "normal", "best"]
"""How long to look for the smallest coder: `fast` is ANS, `best` tries all on everything."""

LZMA_FILTERS: Final[list[dict[str, Any]]] = [
    {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 23}
]
SMALL: Final = 1 << 12
"""Elements up to which every coder is tried: it costs next to nothing."""
SAMPLE: Final = 1 << 18
"""Bytes that a quick test for repetition looks at."""


class Coder(IntEnum):
    """Coders by their code in the file."""

    RAW = 0
    CABAC = 1
    LZMA = 2
    ANS = 3
    SAME = 4
    PARTS = 5


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A tensor's coder and bytes, before they become a record."""

    coder: Coder
    payload: bytes | memoryview
    width: int = 0
    """LZMA and ANS: bytes of an element, the number of planes."""


def code_levels(levels: NDArray[Any], *, dependent: bool, effort: Effort, parts: int = 1) -> Coded:
    """Codes integers that fit 32 bits with what makes them smallest."""
    if parts > 1 and effort != "fast":
        payload = encode_parts(levels, parts=parts, dependent=dependent)
        if payload is not None:
            return Coded(coder=Coder.PARTS, payload=payload)
    return _code_integers(levels, _narrow(levels), dependent=dependent, effort=effort)


def code_exact(array: NDArray[Any], *, effort: Effort) -> Coded:
    """Codes an array bit for bit with what makes it smallest."""
    raw = Coded(coder=Coder.RAW, payload=array.tobytes())
    if array.dtype.kind in "iu" and fits(array):
        narrow = _narrow(array)
        narrow = narrow if narrow.itemsize < array.itemsize else array
        return _smallest(raw, _code_integers(array, narrow, dependent=False, effort=effort))
    coded = [raw, _ans(array)]
    if effort == "best" or array.nbytes <= SMALL or _repeats(array, len(coded[1].payload)):
        coded.append(_lzma(array))
    return _smallest(*coded)


def difference(array: NDArray[Any], base: NDArray[Any]) -> NDArray[Any]:
    """What is added to the bits of `base`, read as integers, to give those of `array`.

    Close floats of one sign have close bits: the difference is short where little changed.
    """
    kind = np.dtype(f"<u{array.dtype.itemsize}")
    under = np.ascontiguousarray(base, numpy_type(base.dtype.name))
    found = array.reshape(-1).view(kind) - under.reshape(-1).view(kind)
    return found.view(np.dtype(f"<i{kind.itemsize}")).reshape(array.shape)


def add_difference(change: NDArray[Any], base: NDArray[Any]) -> NDArray[Any]:
    """The inverse of `difference`."""
    under = np.ascontiguousarray(base, numpy_type(base.dtype.name))
    kind = np.dtype(f"<u{change.dtype.itemsize}")
    bits = np.ascontiguousarray(change).reshape(-1).view(kind) + under.reshape(-1).view(kind)
    return bits.view(under.dtype).reshape(base.shape)


def decode_integers(
    coded: Coded, shape: Sequence[int], dtype: np.dtype[Any], *, dependent: bool, threads: int = 1
) -> NDArray[Any]:
    """The integers of `code_levels`, or of `code_exact` where they went that way.

    Raises:
        FormatError: The payload is damaged.
    """
    if coded.coder == Coder.CABAC:
        payload = decode_levels(coded.payload, shape, dependent=dependent)
        if payload.bytes_read != len(coded.payload):
            raise FormatError("bytes follow the arithmetic code of a tensor")
        integers = payload.levels
    elif coded.coder == Coder.PARTS:
        integers = decode_parts(coded.payload, shape, dependent=dependent, threads=threads)
    elif coded.coder == Coder.RAW or coded.width == dtype.itemsize:
        return decode_exact(coded, shape, dtype)
    elif coded.width in (1, 2, 4) and coded.width < dtype.itemsize:
        integers = decode_exact(coded, shape, np.dtype(f"<i{coded.width}"))
    else:
        raise FormatError(f"{coded.width} byte planes are not those of {dtype.name}")
    limits = np.iinfo(dtype)
    if integers.size and (integers.min() < limits.min or integers.max() > limits.max):
        raise FormatError(f"a value is beyond {dtype.name}")
    return integers.astype(dtype, copy=False)


def decode_exact(coded: Coded, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array of `code_exact`, if it was not coded as integers.

    Raises:
        FormatError: The payload is damaged.
    """
    count = prod(shape)
    nbytes = count * dtype.itemsize
    if coded.coder != Coder.RAW and coded.width != dtype.itemsize:
        raise FormatError(f"{coded.width} byte planes are not those of {dtype.name}")
    if coded.coder == Coder.RAW:
        if len(coded.payload) != nbytes:
            raise FormatError(
                f"{len(coded.payload)} bytes cannot be {count} values of {dtype.name}"
            )
        return np.frombuffer(bytes(coded.payload), dtype).reshape(tuple(shape))
    if coded.coder == Coder.LZMA:
        planes = np.frombuffer(_inflate(coded.payload, nbytes), np.uint8)
    else:
        planes = _decode_ans(coded.payload, coded.width, count)
    return (
        np.ascontiguousarray(planes.reshape(coded.width, count).T).view(dtype).reshape(tuple(shape))
    )


def _code_integers(
    wide: NDArray[Any], narrow: NDArray[Any], *, dependent: bool, effort: Effort
) -> Coded:
    """Codes integers; `narrow` holds the same ones in fewer bytes."""
    if effort == "fast":
        return _ans(narrow)
    wide = np.ascontiguousarray(wide, dtype=np.int32).reshape(wide.shape)
    cabac = Coded(coder=Coder.CABAC, payload=encode_levels(wide, dependent=dependent))
    # Weights that are alike everywhere leave contexts nothing to adapt to: ANS is a little
    # shorter on some, and takes no time.
    best = _smallest(cabac, _ans(narrow))
    if effort == "best" or wide.size <= SMALL or _repeats(narrow, len(best.payload)):
        return _smallest(best, _lzma(narrow))
    return best


def _smallest(*coded: Coded) -> Coded:
    return min(coded, key=lambda coding: len(coding.payload))


def _narrow(levels: NDArray[Any]) -> NDArray[Any]:
    """The same integers in the narrowest signed type, little-endian."""
    low, high = (int(levels.min()), int(levels.max())) if levels.size else (0, 0)
    for width in (1, 2):
        if -(1 << (8 * width - 1)) <= low and high < 1 << (8 * width - 1):
            return levels.astype(f"<i{width}")
    return levels.astype("<i4")


def _planes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Bytes of equal significance side by side: (itemsize, element)."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return np.ascontiguousarray(flat.reshape(array.size, array.itemsize).T)


def _ans(array: NDArray[Any]) -> Coded:
    """Each plane coded, or kept where that is shorter: 9 bytes say which, and how long."""
    parts = []
    for plane in _planes(array):
        kept, block = plane.tobytes(), ans.encode_bytes(plane)
        use = len(block) < len(kept)
        block = block if use else kept
        parts.append(bytes((use,)) + len(block).to_bytes(8, "little") + block)
    return Coded(coder=Coder.ANS, payload=b"".join(parts), width=array.itemsize)


def _decode_ans(payload: bytes | memoryview, width: int, count: int) -> NDArray[np.uint8]:
    view = memoryview(payload)
    planes = np.empty((width, count), np.uint8)
    for plane in planes:
        if len(view) < 9 or view[0] > 1:
            raise FormatError("a byte plane is missing")
        length = int.from_bytes(view[1:9], "little")
        block = view[9 : 9 + length]
        if len(block) != length or (not view[0] and length != count):
            raise FormatError("a byte plane has the wrong length")
        plane[:] = ans.decode_bytes(block, count) if view[0] else np.frombuffer(block, np.uint8)
        view = view[9 + length :]
    if len(view):
        raise FormatError("bytes follow the last byte plane")
    return planes


def _lzma(array: NDArray[Any]) -> Coded:
    raw = _planes(array).tobytes()
    # A window as large as the data finds the same and starts faster; the decoder's is fixed.
    window = max(1 << 12, min(len(raw), LZMA_FILTERS[0]["dict_size"]))
    payload = lzma.compress(
        raw, format=lzma.FORMAT_RAW, filters=[{**LZMA_FILTERS[0], "dict_size": window}]
    )
    return Coded(coder=Coder.LZMA, payload=payload, width=array.itemsize)


def _inflate(payload: bytes | memoryview, nbytes: int) -> bytes:
    """Decompresses to exactly `nbytes`, however much there is."""
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=LZMA_FILTERS)
    try:
        out = decoder.decompress(payload, max_length=nbytes + 1)
        # The end marker may come after the last byte that was asked for.
        if len(out) == nbytes and not decoder.eof:
            out += decoder.decompress(b"", max_length=1)
    except (lzma.LZMAError, EOFError) as error:
        raise FormatError(f"the LZMA data is damaged ({error})") from None
    if len(out) != nbytes or not decoder.eof or decoder.unused_data:
        raise FormatError(f"the LZMA data does not hold {nbytes} bytes")
    return out


def _repeats(array: NDArray[Any], coded_bytes: int) -> bool:
    """Whether a fast LZ coder comes close on a sample: then a thorough one may win."""
    planes = _planes(array)
    part = max(1, SAMPLE // len(planes))
    begin = max(0, (array.size - part) // 2)
    sample = np.ascontiguousarray(planes[:, begin : begin + part])
    ratio = len(zlib.compress(sample.tobytes(), 1)) / max(sample.size, 1)
    return ratio * planes.size < 1.2 * coded_bytes
