"""A tensor in parts, so that several threads code and decode it: entry points of our own.

Each part is some rows of the tensor as a payload of its own. The parts of one tensor cost some
tens of bytes more than it would in one piece, since every part learns its contexts anew.

    varint      number of parts
    each        varint, bytes of its payload; 1 byte, the state its trellis begins in
    each        the payload
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic.cabac import decode_levels, encode_levels
from tersenet.codec.container.records import Buffer, read_varint, varint
from tersenet.codec.levels import trellis
from tersenet.errors import FormatError

__all__ = ["SMALLEST", "decode_parts", "encode_parts"]

SMALLEST: Final = 1 << 15
"""Levels of a part at least: below, what threads save is what starting them costs."""


def encode_parts(levels: NDArray[np.int32], *, parts: int, dependent: bool) -> bytes | None:
    """Codes a tensor in at most so many parts; None where it is too small for two."""
    begins = _begins(levels.shape, min(parts, levels.size // SMALLEST))
    if len(begins) < 2:
        return None
    width = prod(levels.shape[1:])
    flat = np.ascontiguousarray(levels, np.int32).reshape(-1)
    states = np.zeros(len(begins), np.int64)
    if dependent:
        trellis.states_at(flat, np.array(begins) * width, states)
    ends = [*begins[1:], len(levels)]

    def encode_part(begin: int, end: int, state: int) -> bytes:
        return encode_levels(levels[begin:end], dependent=dependent, trellis=state)

    with ThreadPoolExecutor(len(begins)) as pool:
        payloads = list(pool.map(encode_part, begins, ends, states.tolist()))
    heads = (
        varint(len(payload)) + bytes((state,))
        for payload, state in zip(payloads, states.tolist(), strict=True)
    )
    return varint(len(begins)) + b"".join(heads) + b"".join(payloads)


def decode_parts(
    payload: bytes | memoryview, shape: Sequence[int], *, dependent: bool, threads: int
) -> NDArray[np.int32]:
    """The inverse of `encode_parts`; takes 4 bytes per level whatever the bytes say.

    Raises:
        FormatError: The payload is damaged.
    """
    buffer = Buffer(payload)
    count, _ = read_varint(buffer)
    rows = shape[0] if shape else 0
    if not 1 < count <= max(rows, 1) or count > len(payload):
        raise FormatError(f"{count} parts of {rows} rows")
    heads = [(read_varint(buffer)[0], buffer.take(1)[0]) for _ in range(count)]
    begins = _begins(shape, count)
    if len(begins) != count or any(state > 7 for _, state in heads):
        raise FormatError("parts that cannot be those of its rows")
    jobs = [
        (buffer.take(length), begin, end, state)
        for (length, state), begin, end in zip(heads, begins, [*begins[1:], rows], strict=True)
    ]
    if not buffer.at_end():
        raise FormatError("bytes follow the last part")
    out = np.empty(tuple(shape), np.int32)

    def decode_part(part: memoryview | bytes, begin: int, end: int, state: int) -> None:
        found = decode_levels(part, (end - begin, *shape[1:]), dependent=dependent, trellis=state)
        if found.bytes_read != len(part):
            raise FormatError("bytes follow the arithmetic code of a part")
        out[begin:end] = found.levels

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for done in [pool.submit(decode_part, *job) for job in jobs]:
            done.result()
    return out


def _begins(shape: Sequence[int], parts: int) -> list[int]:
    """The first rows of the parts, which are as equal as can be."""
    if not shape or parts < 1 or not prod(shape):
        return []
    parts = min(parts, shape[0])
    return [shape[0] * i // parts for i in range(parts)]
