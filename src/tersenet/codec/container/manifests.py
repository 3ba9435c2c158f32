"""Manifests in few bytes: JSON whose lists of indices are bitmaps, deflated against known words.

What is read is bounded before it is made: the head states the bytes of the text, and neither
what is inflated nor what its bitmaps stand for may exceed them.
"""

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain, islice, pairwise
from math import gcd
from typing import Any, Final

import numpy as np

from tersenet.codec.container.records import (
    MANIFEST,
    PACKED,
    Buffer,
    Record,
    fail,
    read_varint,
    varint,
)
from tersenet.codec.container.words import WORDS
from tersenet.errors import FormatError

__all__ = ["read_manifest", "write_manifest"]

MAX_TEXT: Final = {MANIFEST: 1 << 26, PACKED: 1 << 20}
"""Bytes of the JSON text, by the kind of record."""

LEAST_INDICES: Final = 8
"""Indices of a bitmap: shorter lists are text that words and matches cover."""

MARK: Final = b"\x01"
"""Stands where a list was. JSON escapes it, so that no text holds it."""

_LIST: Final = re.compile(rb"\[(?:\d{1,9},){%d,}\d{1,9}\]" % (LEAST_INDICES - 1))
_PIECE: Final = 1 << 12
"""Indices that are written out at a time."""


def write_manifest(manifest: Mapping[str, Any]) -> tuple[bytes, bytes, bytes]:
    """The kind, head and payload of a manifest's record: packed, unless it is too long for that."""
    plain = json.dumps(manifest, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode(
        errors="backslashreplace"
    )  # of half a surrogate pair, as JSON itself escapes it
    if len(plain) <= MAX_TEXT[PACKED]:
        return PACKED, varint(len(plain)), _pack(plain)
    text = json.dumps(manifest, separators=(",", ":"), allow_nan=False).encode()
    return MANIFEST, varint(len(text)), zlib.compress(text, 9)


def read_manifest(record: Record, payload: bytes | memoryview) -> Mapping[str, Any]:
    """The manifest of a record of either kind.

    Raises:
        FormatError: It is damaged, or longer than it says or may be; names the offset.
    """
    head = Buffer(record.head)
    try:
        length, _ = read_varint(head)
    except FormatError:
        fail(record.head_offset, "a manifest's head does not say how long it is")
    if record.kind == PACKED and not head.at_end():
        fail(record.head_offset, "a manifest's head is longer than it says")
    most = MAX_TEXT[record.kind]
    if length > most:
        fail(record.head_offset, f"a manifest of {length} bytes is beyond {most}")
    try:
        text = (_unpack if record.kind == PACKED else _inflate)(payload, length)
        manifest = json.loads(text.decode())
    except (zlib.error, ValueError, RecursionError) as error:
        fail(record.payload_offset, f"the manifest cannot be read ({error})")
    except FormatError as error:
        fail(record.payload_offset, f"the manifest is damaged ({str(error).rstrip('.')})")
    if not isinstance(manifest, dict):
        fail(record.payload_offset, "the manifest is not an object")
    return manifest


def _inflate(payload: bytes | memoryview, length: int) -> bytes:
    decoder = zlib.decompressobj()
    text = decoder.decompress(payload, length + 1)
    if len(text) != length or not decoder.eof:
        raise FormatError(f"it is not {length} bytes long")
    return text


def _pack(text: bytes) -> bytes:
    encoder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, WORDS)
    return encoder.compress(_LIST.sub(lambda found: _bitmap(found[0]), text)) + encoder.flush()


def _unpack(payload: bytes | memoryview, length: int) -> bytes:
    decoder = zlib.decompressobj(-15, WORDS)
    marked = decoder.decompress(payload, length + 1)
    if len(marked) > length or not decoder.eof or decoder.unused_data:
        raise FormatError(f"its deflated text does not end within {length} bytes")
    text, at = bytearray(), 0
    while (found := marked.find(MARK, at)) >= 0:
        text += marked[at:found]
        buffer = Buffer(marked, found + 1)
        unit, bitmap = read_varint(buffer)[0], buffer.take(read_varint(buffer)[0])
        for piece in _write_out(unit, bitmap, length - len(text)):
            text += piece
            if len(text) > length:
                break
        at = buffer.offset
    text += marked[at:]
    if len(text) != length:
        raise FormatError(f"it is not {length} bytes long")
    return bytes(text)


def _bitmap(text: bytes) -> bytes:
    """A list of indices as its bitmap, or as it is where that is shorter or not the same."""
    indices = [int(digits) for digits in text[1:-1].split(b",")]
    last = indices[-1]
    ascends = all(index < other for index, other in pairwise(indices))
    if not ascends or b",".join(b"%d" % index for index in indices) != text[1:-1]:
        return text
    # What a dense layer reads of a flattened channel goes in blocks of one size.
    gaps = (
        edge
        for index, other in pairwise(indices)
        if other > index + 1
        for edge in (index + 1, other)
    )
    unit = gcd(indices[0], last + 1, *gaps)
    if last // unit > 8 * len(text):
        return text
    bits = np.zeros(last // unit + 1, np.uint8)
    bits[[index // unit for index in indices]] = 1
    packed = np.packbits(bits, bitorder="little").tobytes()
    return min(text, MARK + varint(unit) + varint(len(packed)) + packed, key=len)


def _write_out(unit: int, bitmap: bytes | memoryview, room: int) -> Iterator[bytes]:
    """The text of the list that a bitmap stands for, piece by piece."""
    count = unit * int.from_bytes(bitmap, "little").bit_count()
    if count < LEAST_INDICES or not bitmap[-1]:
        raise FormatError("a list of indices that is shorter as text, or as another bitmap")
    if 2 * count >= room:  # each takes a digit and a comma, at least
        raise FormatError(f"{count} indices do not fit {room} bytes of text")
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little").nonzero()[0]
    blocks = (range(unit * int(bit), unit * int(bit) + unit) for bit in bits)
    indices = map(str, chain.from_iterable(blocks))
    before = "["
    while piece := ",".join(islice(indices, _PIECE)):
        yield (before + piece).encode()
        before = ","
    yield b"]"
