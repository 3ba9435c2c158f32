"""The container: tensors and a manifest in one checked, streamable file.

    data = encode({"fc.weight": Quantised(levels=..., step=...), "fc.bias": bias})
    decode(data)["fc.weight"]            # float32, level * step
    Reader(data)["fc.bias"]              # one tensor, without decoding the others
    inspect(data).entries                # what lies where, in how many bytes

`docs/format.md` gives every byte. A file that is truncated, damaged, hostile or of a
later version is answered with a `FormatError` that names the offset; nothing in a file
is ever executed, and it cannot make a reader take more memory than `max_bytes`.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec import records
from tersenet.codec.heads import Entry, Heads, write_head
from tersenet.codec.records import (
    Buffer,
    Readable,
    Record,
    Source,
    Stream,
    Writable,
    fail,
)
from tersenet.codec.tensors import (
    DTYPES,
    Coded,
    Coder,
    Effort,
    Quantised,
    code_exact,
    code_levels,
    decode_exact,
    decode_integers,
    numpy_type,
)
from tersenet.errors import FormatError

MAX_BYTES: Final = 1 << 32
"""What the decoded tensors of a file may take unless the caller allows more."""

MAX_MANIFEST: Final = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a container holds. The file's bytes are the entries' and `overhead_bytes`."""

    version: tuple[int, int]
    entries: tuple[Entry, ...]
    manifest: Mapping[str, Any]
    file_bytes: int

    @property
    def overhead_bytes(self) -> int:
        """Bytes that belong to no tensor: preamble, manifest, end."""
        return self.file_bytes - sum(entry.file_bytes for entry in self.entries)


def encode(
    tensors: Mapping[str, NDArray[Any] | Quantised],
    *,
    manifest: Mapping[str, Any] | None = None,
    effort: Effort = "normal",
) -> bytes:
    """Codes named tensors, each with the coder that makes it smallest.

    Args:
        tensors: Arrays, kept bit for bit, or levels, which come back as `level * step`.
        manifest: What is JSON: recipe, edits, costs.
        effort: `fast` is static ANS; `best` tries every coder on every tensor.

    Raises:
        ValueError: A name or a type of element that a container cannot hold.
    """
    file = io.BytesIO()
    with Writer(file, effort=effort) as writer:
        if manifest is not None:
            writer.write_manifest(manifest)
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    return file.getvalue()


def with_manifest(data: bytes | memoryview, manifest: Mapping[str, Any]) -> bytes:
    """The same container with this manifest instead of its own; no tensor is coded again.

    Raises:
        FormatError: As `decode`.
    """
    out = io.BytesIO()
    writer = Writer(out)
    writer.write_manifest(manifest)
    for record, payload in records.read_records(Buffer(data)):
        if record.kind == b"T":
            writer.copy(record, payload)
    writer.close()
    return out.getvalue()


@final
class Writer:
    """Writes a container from front to back; memory holds one tensor at a time.

    Args:
        file: Where to; it is only appended to.
        effort: As in `encode`.
        repeats: Writes a tensor that equals an earlier one as a reference to it. A reader
            of a stream must then keep what has passed.
    """

    def __init__(self, file: Writable, *, effort: Effort = "normal", repeats: bool = True) -> None:
        self._file = file
        self._effort: Effort = effort
        self._repeats = repeats
        self._names: dict[str, int] = {}
        self._seen: dict[tuple[Any, ...], int] = {}
        self._last = ""
        self._chain = 0
        file.write(records.write_preamble())

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Writes a record of JSON."""
        raw = json.dumps(manifest, separators=(",", ":"), allow_nan=False).encode()
        packed = zlib.compress(raw, 9)
        self._record(b"M", records.varint(len(raw)), packed)

    def write(self, name: str, tensor: NDArray[Any] | Quantised) -> None:
        """Writes one tensor.

        Raises:
            ValueError: The name is taken, or the elements are of an unknown type.
        """
        if name in self._names:
            raise ValueError(f"The container already holds a tensor named '{name}'.")
        entry, payload = self._coded(name, tensor)
        index = len(self._names)
        digest = hashlib.sha256(payload).digest()
        key = (replace(entry, name=""), digest, len(payload))
        if self._repeats and (first := self._seen.setdefault(key, index)) != index:
            entry = Entry(
                name=name, dtype=entry.dtype, shape=entry.shape, coder=Coder.SAME, source=first
            )
            payload = b""
        self._record(b"T", write_head(entry, after=self._last), payload)
        self._names[name] = index
        self._last = name

    def copy(self, record: Record, payload: bytes | memoryview) -> None:
        """Writes a record of another container as it is; all before it must be there, too."""
        self._names[f"{len(self._names)}"] = len(self._names)
        self._record(record.kind, record.head, bytes(payload))

    def close(self) -> None:
        """Writes the last record; the file itself stays open."""
        self._file.write(
            records.write_record(b"E", records.end_head(len(self._names), self._chain), b"")
        )

    def _coded(self, name: str, tensor: NDArray[Any] | Quantised) -> tuple[Entry, bytes]:
        if isinstance(tensor, Quantised):
            coded = code_levels(tensor.levels, dependent=tensor.dependent, effort=self._effort)
            shape, dtype = tensor.levels.shape, tensor.dtype
            steps = np.asarray(tensor.step, np.float32)
            levels = {
                "steps": tuple(map(float, np.atleast_1d(steps))),
                "per_row": steps.ndim == 1,
                "quantised": True,
            }
        else:
            array = np.asarray(tensor)
            dtype, shape = array.dtype.name, array.shape
            if dtype not in DTYPES:
                raise ValueError(f"'{name}' holds elements of type {dtype}: take one of {DTYPES}.")
            little = np.ascontiguousarray(array, dtype=numpy_type(dtype)).reshape(shape)
            coded, levels = code_exact(little, effort=self._effort), {}
        dependent = (
            isinstance(tensor, Quantised) and tensor.dependent and coded.coder == Coder.CABAC
        )
        entry = Entry(
            name=name,
            dtype=dtype,
            shape=tuple(map(int, shape)),
            coder=coded.coder,
            width=coded.width,
            dependent=dependent,
            **levels,
        )
        return entry, bytes(coded.payload)

    def _record(self, kind: bytes, head: bytes, payload: bytes) -> None:
        record = records.write_record(kind, head, payload)
        self._chain = zlib.crc32(record[-4:], self._chain)
        self._file.write(record)


def decode(
    data: bytes | bytearray | memoryview, *, max_bytes: int = MAX_BYTES
) -> dict[str, NDArray[Any]]:
    """All tensors of a container, by name in the order of the file.

    Memory: the results, which together take at most `max_bytes`; 4 bytes per element of
    the tensor in work; 16 MiB for LZMA.

    Raises:
        FormatError: The bytes are not a container, or not an intact one, or the tensors
            take more than `max_bytes`; names the offset.
    """
    return dict(_tensors(Buffer(data), max_bytes))


def stream(file: Readable, *, max_bytes: int = MAX_BYTES) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of a container one by one as they arrive.

    A tensor is intact when it is handed out; that none is missing shows only at the end.
    Memory: one tensor, and the coded bytes that have passed, since a later tensor may
    repeat them.

    Raises:
        FormatError: As `decode`.
    """
    return _tensors(Stream(file), max_bytes)


def inspect(data: bytes | bytearray | memoryview) -> Listing:
    """What a container holds, without decoding it; payloads are not verified.

    Raises:
        FormatError: The bytes are not a container; names the offset.
    """
    return Reader(data).listing


@final
class Reader(Mapping[str, NDArray[Any]]):
    """Random access: a mapping from name to tensor that decodes only what is asked for.

    Args:
        source: The bytes, or the path of a file, which is mapped and not read.
        max_bytes: What one decoded tensor may take.

    Raises:
        FormatError: As `decode`; a damaged payload shows when its tensor is read.
    """

    def __init__(
        self, source: bytes | bytearray | memoryview | Path, *, max_bytes: int = MAX_BYTES
    ) -> None:
        if isinstance(source, Path):
            source = np.memmap(source, np.uint8, "r").data if source.stat().st_size else b""
        self._data = memoryview(source).cast("B")
        self._max_bytes = max_bytes
        buffer = Buffer(self._data)
        heads = Heads()
        self._entries = heads.entries
        manifest: Mapping[str, Any] = {}
        for record, _ in records.read_records(buffer, payloads=False):
            if record.kind == b"T":
                heads.read(record)
            elif record.kind == b"M":
                buffer_at = Buffer(self._data, record.offset)
                manifest = _manifest(*records.read_record(buffer_at))
            else:
                fail(record.offset, "a record of a kind that this reader does not know")
        self._index = {entry.name: i for i, entry in enumerate(self._entries)}
        self.listing: Final = Listing(
            version=(self._data[8], self._data[9]),
            entries=tuple(self._entries),
            manifest=manifest,
            file_bytes=len(self._data),
        )

    def __getitem__(self, name: str) -> NDArray[Any]:
        entry = self._entries[self._index[name]]
        while entry.coder == Coder.SAME:
            entry = self._entries[entry.source]
        record, payload = records.read_record(Buffer(self._data, entry.offset))
        _allow(record, entry, self._max_bytes)
        return _decoded(record, entry, payload)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def _tensors(source: Source, max_bytes: int) -> Iterator[tuple[str, NDArray[Any]]]:
    heads = Heads()
    passed: list[tuple[Record, Entry, bytes | memoryview]] = []
    left = max_bytes
    for record, payload in records.read_records(source):
        if record.kind == b"M":
            _manifest(record, payload)
            continue
        if record.kind != b"T":
            fail(record.offset, "a record of a kind that this reader does not know")
        entry = heads.read(record)
        left -= _allow(record, entry, left)
        passed.append((record, entry, payload))
        if entry.coder == Coder.SAME:
            passed[-1] = passed[entry.source]
        yield entry.name, _decoded(*passed[-1])


def _allow(record: Record, entry: Entry, max_bytes: int) -> int:
    nbytes = prod(entry.shape) * entry.itemsize
    if nbytes > max_bytes:
        fail(
            record.offset,
            f"'{entry.name}' takes {nbytes} bytes of which {max_bytes} are allowed (max_bytes)",
        )
    return nbytes


def _decoded(record: Record, entry: Entry, payload: bytes | memoryview) -> NDArray[Any]:
    coded = Coded(coder=entry.coder, payload=payload, width=entry.width)
    dtype = numpy_type(entry.dtype)
    try:
        if entry.quantised:
            levels = decode_integers(
                coded, entry.shape, np.dtype(np.int32), dependent=entry.dependent
            )
            steps = np.array(entry.steps, np.float32)
            step = steps if entry.per_row else float(steps[0])
            return Quantised(levels=levels, step=step, dtype=entry.dtype).weights()
        if dtype.kind in "iu":
            return decode_integers(coded, entry.shape, dtype, dependent=False)
        if entry.coder == Coder.CABAC:
            raise FormatError(f"values of type {entry.dtype} are not coded so")
        array = decode_exact(coded, entry.shape, dtype)
        if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
            raise FormatError("a truth value is neither 0 nor 1")
    except FormatError as error:
        fact = str(error).rstrip(".")
        fail(record.payload_offset, f"'{entry.name}' is damaged: {fact[0].lower()}{fact[1:]}")
    return array


def _manifest(record: Record, payload: bytes | memoryview) -> Mapping[str, Any]:
    length, _ = records.read_varint(Buffer(record.head))
    if length > MAX_MANIFEST:
        fail(record.head_offset, f"a manifest of {length} bytes is beyond {MAX_MANIFEST}")
    decoder = zlib.decompressobj()
    try:
        raw = decoder.decompress(payload, length + 1)
        manifest = json.loads(raw.decode())
    except (zlib.error, ValueError, RecursionError) as error:
        fail(record.payload_offset, f"the manifest cannot be read ({error})")
    if len(raw) != length or not decoder.eof or not isinstance(manifest, dict):
        fail(record.payload_offset, f"the manifest is not an object of {length} bytes")
    return manifest
