"""Reading a container: all of it, as it arrives, or one tensor without the others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.container import records
from tersenet.codec.container.heads import Heads, TensorEntry
from tersenet.codec.container.manifests import read_manifest
from tersenet.codec.container.records import TENSOR, Buffer, Record, Source, fail
from tersenet.codec.container.tensors import (
    Coded,
    Coder,
    add_difference,
    decode_exact,
    decode_integers,
)
from tersenet.codec.elements import numpy_type
from tersenet.codec.levels.quantised import Quantised, check_of, update_order
from tersenet.errors import FormatError

__all__ = ["MAX_BYTES", "Base", "Listing", "Reader", "read_tensors"]

Base: TypeAlias = Mapping[str, NDArray[Any]]
"""The tensors that an update was written against, by name."""

MAX_BYTES: Final = 1 << 32
"""What the decoded tensors of a file may take unless the caller allows more."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a container holds. The file's bytes are the entries' and `overhead_bytes`."""

    version: tuple[int, int]
    entries: tuple[TensorEntry, ...]
    manifest: Mapping[str, Any]
    file_bytes: int
    manifest_bytes: int = 0
    """Bytes of the manifest's record in the file, part of `overhead_bytes`."""

    @property
    def overhead_bytes(self) -> int:
        """Bytes that belong to no tensor: preamble, manifest, end."""
        return self.file_bytes - sum(entry.file_bytes for entry in self.entries)


@final
class Reader(Mapping[str, NDArray[Any]]):
    """Random access: a mapping from name to tensor that decodes only what is asked for.

    Args:
        source: The bytes, or the path of a file, which is mapped and not read.
        max_bytes: What one decoded tensor may take.
        base: The tensors that an update was written against.
        threads: To decode the parts of a tensor on.

    Raises:
        FormatError: As `decode`; a damaged payload shows when its tensor is read.
    """

    def __init__(
        self,
        source: bytes | bytearray | memoryview | Path,
        *,
        max_bytes: int = MAX_BYTES,
        base: Base | None = None,
        threads: int = 1,
    ) -> None:
        if isinstance(source, Path):
            source = np.memmap(source, np.uint8, "r").data if source.stat().st_size else b""
        self._data = memoryview(source).cast("B")
        self._max_bytes, self._base, self._threads = max_bytes, base or {}, threads
        buffer = Buffer(self._data)
        heads = Heads()
        self._entries = heads.entries
        manifest: Mapping[str, Any] = {}
        manifest_bytes = 0
        for record, _ in records.read_records(buffer, payloads=False):
            if record.kind == TENSOR:
                heads.read(record)
            else:
                buffer_at = Buffer(self._data, record.offset)
                manifest = read_manifest(*records.read_record(buffer_at))
                manifest_bytes += record.file_bytes
        self._index = {entry.name: i for i, entry in enumerate(self._entries)}
        self.listing: Final = Listing(
            version=(self._data[8], self._data[9]),
            entries=tuple(self._entries),
            manifest=manifest,
            file_bytes=len(self._data),
            manifest_bytes=manifest_bytes,
        )

    def __getitem__(self, name: str) -> NDArray[Any]:
        entry = self._entries[self._index[name]]
        while entry.coder == Coder.SAME:
            entry = self._entries[entry.source]
        record, payload = records.read_record(Buffer(self._data, entry.offset))
        _allow(record, entry, self._max_bytes)
        return _decode(record, entry, payload, self._base, self._threads)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def read_tensors(
    source: Source, max_bytes: int, base: Base, threads: int
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of a container as they come."""
    heads = Heads()
    passed: list[tuple[Record, TensorEntry, bytes | memoryview]] = []
    left = max_bytes
    for record, payload in records.read_records(source):
        if record.kind != TENSOR:
            read_manifest(record, payload)
            continue
        entry = heads.read(record)
        left -= _allow(record, entry, left)
        passed.append((record, entry, payload))
        if entry.coder == Coder.SAME:
            passed[-1] = passed[entry.source]
        yield entry.name, _decode(*passed[-1], base, threads)


def _allow(record: Record, entry: TensorEntry, max_bytes: int) -> int:
    nbytes = prod(entry.shape) * entry.itemsize
    if nbytes > max_bytes:
        fail(
            record.offset,
            f"'{entry.name}' takes {nbytes} bytes of which {max_bytes} are allowed (max_bytes)",
        )
    return nbytes


def _decode(
    record: Record, entry: TensorEntry, payload: bytes | memoryview, base: Base, threads: int
) -> NDArray[Any]:
    under = _base_of(record, entry, base) if entry.relative else None
    coded = Coded(coder=entry.coder, payload=payload, width=entry.width)
    try:
        if entry.quantised:
            order = None if under is None else update_order(under)
            shape = entry.shape if order is None else (prod(entry.shape),)
            levels = decode_integers(
                coded, shape, np.dtype(np.int32), dependent=entry.dependent, threads=threads
            )
            if order is not None:
                coded_levels, levels = levels, np.empty_like(levels)
                levels[order] = coded_levels
            return _weights(entry, levels.reshape(entry.shape), under)
        if under is not None:
            change = _exact(coded, entry.shape, np.dtype(f"<i{entry.itemsize}"))
            return add_difference(change, under)
        return _exact(coded, entry.shape, numpy_type(entry.dtype))
    except FormatError as error:
        fact = str(error).rstrip(".")
        fail(record.payload_offset, f"'{entry.name}' is damaged: {fact[0].lower()}{fact[1:]}")


def _weights(
    entry: TensorEntry, levels: NDArray[np.int32], under: NDArray[Any] | None
) -> NDArray[Any]:
    steps = np.array(entry.steps, np.float32)
    try:
        return Quantised(
            levels=levels,
            step=steps if entry.per_row else float(steps[0]),
            dtype=entry.dtype,
            codebook=np.array(entry.codebook, np.float32) if entry.codebook else None,
            base=under,
        ).weights()
    except ValueError as error:  # a level that the codebook does not have
        raise FormatError(str(error)) from None


def _exact(coded: Coded, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind in "iu":
        return decode_integers(coded, shape, dtype, dependent=False)
    if coded.coder in (Coder.CABAC, Coder.PARTS):
        raise FormatError(f"values of type {dtype.name} are not coded so")
    array = decode_exact(coded, shape, dtype)
    if dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise FormatError("a truth value is neither 0 nor 1")
    return array


def _base_of(record: Record, entry: TensorEntry, base: Base) -> NDArray[Any]:
    """The tensor that an update was written against."""
    found = base.get(entry.name)
    if found is None:
        fail(record.offset, f"'{entry.name}' is an update: give the base that it was made for")
    if (found.dtype.name, found.shape) != (entry.dtype, entry.shape) or (
        check_of(found) != entry.base_check
    ):
        fail(record.offset, f"'{entry.name}' is an update to another base than the one given")
    return found
