"""The bytes of a container: numbers, records and their checks. `docs/format.md` is its page.

Everything here answers bytes that a stranger wrote with a `FormatError` that names the
offset, before it allocates what they ask for.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol, final, runtime_checkable

from tersenet.errors import FormatError

MAGIC: Final = b"\x89TNC\r\n\x1a\n"
"""As PNG does it: a transfer that touches line ends or the eighth bit is noticed at once."""

KINDS: Final = (b"M", b"P", b"T", b"E")
"""Kinds of records by their number in the file."""

MANIFEST, PACKED, TENSOR, END = KINDS

VERSION: Final = 1
REVISION: Final = 0
PREAMBLE: Final = 16
MAX_HEAD: Final = 1 << 24
MAX_VARINT: Final = 9
"""Bytes of a number: 63 bits."""

_BLOCK: Final = 1 << 20


def fail(offset: int, fact: str) -> NoReturn:
    """Raises the FormatError for a fault at an offset of the file."""
    raise FormatError(f"Offset {offset}: {fact}.")


def varint(number: int) -> bytes:
    """Seven bits a byte, the least significant first; the eighth says that more follow."""
    out = bytearray()
    while number >= 128:
        out.append(128 | (number & 127))
        number >>= 7
    return bytes((*out, number))


@runtime_checkable
class Readable(Protocol):
    """A binary file, a pipe, a socket's file: no seeking is asked of it."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


@runtime_checkable
class Writable(Protocol):
    """A binary file that is only appended to."""

    def write(self, data: bytes, /) -> object:
        """Appends all the bytes."""
        ...


@final
class Buffer:
    """A source that lies in memory: what it takes is a view, never a copy."""

    def __init__(self, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        self._data = memoryview(data).cast("B")
        self.offset = offset

    def take(self, count: int) -> memoryview:
        """The next bytes; fails where the file ends before them."""
        if count > len(self._data) - self.offset:
            fail(len(self._data), f"the file ends where {count} bytes from {self.offset} are due")
        self.offset += count
        return self._data[self.offset - count : self.offset]

    def skip(self, count: int) -> None:
        """Passes over bytes without looking at them."""
        self.take(count)

    def at_end(self) -> bool:
        """Whether nothing follows."""
        return self.offset == len(self._data)


@final
class StreamSource:
    """A source that is read as it comes: a pipe, a socket, a file larger than memory."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._ahead = b""
        self.offset = 0

    def take(self, count: int) -> bytes:
        """The next bytes; memory grows with what is there, not with what is asked for."""
        parts, wanted = [], count
        while wanted:
            block = self._ahead[:wanted] or self._file.read(min(wanted, _BLOCK))
            self._ahead = self._ahead[len(block) :] if self._ahead else b""
            if not block:
                fail(
                    self.offset + count - wanted,
                    f"the file ends where {count} bytes from {self.offset} are due",
                )
            parts.append(block)
            wanted -= len(block)
        self.offset += count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, count: int) -> None:
        """Passes over bytes without keeping them."""
        while count:
            count -= len(self.take(min(count, _BLOCK)))

    def at_end(self) -> bool:
        """Whether nothing follows."""
        self._ahead = self._ahead or self._file.read(1)
        return not self._ahead


Source = Buffer | StreamSource
"""Bytes that are read from front to back."""


def read_varint(source: Source) -> tuple[int, bytes]:
    """A number and the bytes it was written in, which must be the shortest."""
    start = source.offset
    raw = bytearray()
    while True:
        raw += source.take(1)
        if raw[-1] < 128:
            break
        if len(raw) == MAX_VARINT:
            fail(start, "a number is longer than 63 bits")
    if len(raw) > 1 and raw[-1] == 0:
        fail(start, "a number is written in more bytes than it needs")
    number = 0
    for byte in reversed(raw):
        number = number << 7 | (byte & 127)
    return number, bytes(raw)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record as it lies in the file."""

    kind: bytes
    head: bytes
    head_offset: int
    offset: int
    payload_offset: int
    payload_bytes: int
    check: int
    """The CRC-32 that the file states for the record."""

    @property
    def chain_bytes(self) -> bytes:
        """What the checksum in the last record covers of this one: all but the payload."""
        front = write_front(self.kind, self.head, self.payload_bytes)
        return chain_bytes(front, self.check.to_bytes(4, "little"))

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole record in the file."""
        return self.payload_offset + self.payload_bytes + 4 - self.offset


def write_preamble() -> bytes:
    """The 16 bytes in front."""
    head = MAGIC + bytes((VERSION, REVISION, 0, 0))
    return head + zlib.crc32(head).to_bytes(4, "little")


def read_preamble(source: Source) -> None:
    """Checks the 16 bytes in front."""
    head = bytes(source.take(PREAMBLE))
    if head[:8] != MAGIC:
        fail(0, "this is not a tersenet container")
    if zlib.crc32(head[:12]) != int.from_bytes(head[12:], "little"):
        fail(12, "the first bytes do not agree with their checksum: the file is damaged")
    if head[8] != VERSION:
        fail(8, f"the file has version {head[8]}, this reader knows {VERSION}: update tersenet")
    if head[10:12] != b"\0\0":
        fail(10, "reserved bits are set: the file needs a later reader")


def write_front(kind: bytes, head: bytes, payload_bytes: int) -> bytes:
    """What stands before a record's payload."""
    return varint(len(head) << 2 | KINDS.index(kind)) + head + varint(payload_bytes)


def chain_bytes(front: bytes, check: bytes) -> bytes:
    """What the last record's checksum covers of a record.

    The check goes first: behind the bytes that it is of, it would cancel them.
    """
    return check + front


def read_record(source: Source, *, payload: bool = True) -> tuple[Record, bytes | memoryview]:
    """The next record and its payload, or with `payload=False` an empty one in its stead.

    The record is verified when its payload is read; all heads together, by the last record.
    """
    offset = source.offset
    number, front = read_varint(source)
    kind, head_bytes = KINDS[number & 3], number >> 2
    if head_bytes > MAX_HEAD:
        fail(offset, f"a head of {head_bytes} bytes is beyond the limit of {MAX_HEAD}")
    head_offset = source.offset
    head = bytes(source.take(head_bytes))
    payload_bytes, raw = read_varint(source)
    front += head + raw
    payload_offset = source.offset
    body: bytes | memoryview = b""
    if payload:
        body = source.take(payload_bytes)
    else:
        source.skip(payload_bytes)
    stated = int.from_bytes(source.take(4), "little")
    if (payload or not payload_bytes) and zlib.crc32(body, zlib.crc32(front)) != stated:
        fail(source.offset - 4, "a record does not agree with its checksum: it is damaged")
    record = Record(
        kind=kind,
        head=head,
        head_offset=head_offset,
        offset=offset,
        payload_offset=payload_offset,
        payload_bytes=payload_bytes,
        check=stated,
    )
    return record, body


def read_records(
    source: Source, *, payloads: bool = True
) -> Iterator[tuple[Record, bytes | memoryview]]:
    """All records up to the last, which must agree with them and end the file.

    Without payloads, what the heads say is certain once the last record has agreed.
    """
    read_preamble(source)
    chain, count = 0, 0
    while True:
        record, payload = read_record(source, payload=payloads)
        if record.kind == END:
            break
        chain = zlib.crc32(record.chain_bytes, chain)
        count += record.kind == TENSOR
        yield record, payload
    if record.head != end_head(count, chain) or record.payload_bytes:
        fail(record.offset, "the last record does not agree with those before: one is missing")
    if not source.at_end():
        fail(source.offset, "bytes follow the last record")


def end_head(tensors: int, chain: int) -> bytes:
    """The head of the last record: how many tensors, and a checksum of all checksums."""
    return varint(tensors) + chain.to_bytes(4, "little")
