"""The container: tensors and a manifest in one checked, streamable file.

    data = encode({"fc.weight": Quantised(levels=..., step=...), "fc.bias": bias})
    decode(data)["fc.weight"]            # float32, level * step
    Reader(data)["fc.bias"]              # one tensor, without decoding the others
    inspect(data).entries                # what lies where, in how many bytes

`docs/format.md` gives every byte. A file that is truncated, damaged, hostile or of a
later version is answered with a `FormatError` that names the offset; nothing in a file
is ever executed, and it cannot make a reader take more memory than `max_bytes`.
"""

import io
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from tersenet.codec.container import records
from tersenet.codec.container.heads import Heads
from tersenet.codec.container.reader import MAX_BYTES, Base, Listing, Reader, read_tensors
from tersenet.codec.container.records import Buffer, Readable, StreamSource
from tersenet.codec.container.tensors import Effort
from tersenet.codec.container.writer import Writer
from tersenet.codec.levels.quantised import Quantised

__all__ = [
    "MAX_BYTES",
    "Listing",
    "Reader",
    "Writer",
    "decode",
    "encode",
    "inspect",
    "stream",
    "with_manifest",
]


def encode(
    tensors: Mapping[str, NDArray[Any] | Quantised],
    *,
    manifest: Mapping[str, Any] | None = None,
    effort: Effort = "normal",
    parts: int = 1,
    base: Base | None = None,
) -> bytes:
    """Codes named tensors, each with the coder that makes it smallest.

    Args:
        tensors: Arrays, kept bit for bit, or levels, which come back as `level * step`.
        manifest: What is JSON: recipe, edits, costs.
        effort: `fast` is static ANS; `best` tries every coder on every tensor.
        parts: Splits large tensors of levels into so many, for as many threads.
        base: What is exact is written as the change from it, where that is smaller: an update,
            which decodes only beside the same base.

    Raises:
        ValueError: A name or a type of element that a container cannot hold.
    """
    file = io.BytesIO()
    with Writer(file, effort=effort, parts=parts, base=base) as writer:
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
    heads = Heads()
    for record, payload in records.read_records(Buffer(data)):
        if record.kind == records.TENSOR:
            writer.copy(heads.read(record), payload)
    writer.close()
    return out.getvalue()


def decode(
    data: bytes | bytearray | memoryview,
    *,
    max_bytes: int = MAX_BYTES,
    base: Base | None = None,
    threads: int = 1,
) -> dict[str, NDArray[Any]]:
    """All tensors of a container, by name in the order of the file.

    An update needs its `base`; tensors in parts are decoded on so many `threads`.

    Memory: the results, which together take at most `max_bytes`; 4 bytes per element of
    the tensor in work; 16 MiB for LZMA.

    Raises:
        FormatError: The bytes are not a container, or not an intact one, or the tensors
            take more than `max_bytes`, or the base is another one; names the offset.
    """
    return dict(read_tensors(Buffer(data), max_bytes, base or {}, threads))


def stream(
    file: Readable, *, max_bytes: int = MAX_BYTES, base: Base | None = None, threads: int = 1
) -> Iterator[tuple[str, NDArray[Any]]]:
    """The tensors of a container one by one as they arrive.

    A tensor is intact when it is handed out; that none is missing shows only at the end.
    Memory: one tensor, and the coded bytes that have passed, since a later tensor may
    repeat them.

    Raises:
        FormatError: As `decode`.
    """
    return read_tensors(StreamSource(file), max_bytes, base or {}, threads)


def inspect(data: bytes | bytearray | memoryview) -> Listing:
    """What a container holds, without decoding it; payloads are not verified.

    Raises:
        FormatError: The bytes are not a container; names the offset.
    """
    return Reader(data).listing
