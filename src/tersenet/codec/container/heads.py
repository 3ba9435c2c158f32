"""What stands before a tensor's payload: its name, type, shape, coder and steps."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Final, final

import numpy as np

from tersenet.codec.container.records import Buffer, Record, fail, read_varint, varint
from tersenet.codec.container.tensors import Coder
from tersenet.codec.elements import DTYPES, FLOATS
from tersenet.codec.levels.quantised import MAX_CODEBOOK
from tersenet.errors import FormatError

MAX_NAME: Final = 4096
MAX_DIMS: Final = 32
MAX_ELEMENTS: Final = 1 << 58
"""Even of an empty tensor, not counting its empty sides: NumPy has no larger ones."""
CODERS: Final = 0x0F
QUANTISED, DEPENDENT, SHORT_STEPS, PER_ROW, RELATIVE, CODEBOOK = (1 << bit for bit in range(4, 10))
TYPE: Final = 10
"""Bits of a head's form: the coder, flags, and from this one on the type of the elements."""
USUAL: Final = DTYPES.index("float32")
"""The type whose bits are none, so that the form of most tensors is one byte."""
ENDINGS: Final = ("", ".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked")
"""How names end, by the number that stands for it."""


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor of a container, as its head describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    coder: Coder
    width: int = 0
    """LZMA, ANS: bytes per element in the payload."""
    quantised: bool = False
    """The payload holds levels that are worth `steps` each."""
    dependent: bool = False
    steps: tuple[float, ...] = ()
    """One, or one per slice of the first dimension."""
    per_row: bool = False
    codebook: tuple[float, ...] = ()
    """What levels stand for, in steps, where it is not they themselves."""
    relative: bool = False
    """The payload is what is added to the tensor of the same name in the base."""
    base_check: int = 0
    """The CRC-32 of the base tensor's bytes."""
    source: int = 0
    """SAME: the index of the earlier tensor."""
    offset: int = 0
    """Where the record begins in the file."""
    file_bytes: int = 0
    """Bytes of the record in the file, head and checksums included."""

    @property
    def itemsize(self) -> int:
        """Bytes of an element once decoded."""
        try:
            return np.dtype(self.dtype).itemsize
        except TypeError:
            return 2 if self.dtype == "bfloat16" else 1


def write_head(entry: TensorEntry, *, after: str) -> bytes:
    """The head of a tensor whose predecessor is named `after`."""
    name, last = entry.name.encode(), after.encode()
    if not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"A name takes 1 to {MAX_NAME} bytes of UTF-8, not {len(name)}.")
    if len(entry.shape) > MAX_DIMS:
        raise ValueError(f"'{entry.name}' has {len(entry.shape)} dimensions, {MAX_DIMS} at most.")
    ending = next((known for known in ENDINGS[1:] if entry.name.endswith(known)), "")
    stem = name[: len(name) - len(ending)]
    shared = 0
    while shared < min(len(stem), len(last)) and stem[shared] == last[shared]:
        shared += 1
    steps = np.array(entry.steps, "<f4").view("<u2").reshape(-1, 2)
    short = entry.quantised and not steps[:, 0].any()
    form = entry.coder | QUANTISED * entry.quantised | DEPENDENT * entry.dependent
    form |= SHORT_STEPS * short | PER_ROW * entry.per_row | RELATIVE * entry.relative
    form |= CODEBOOK * bool(entry.codebook) | (DTYPES.index(entry.dtype) ^ USUAL) << TYPE
    parts = [
        varint(shared),
        varint((len(stem) - shared) << 3 | ENDINGS.index(ending)),
        stem[shared:],
        varint(form),
        varint(len(entry.shape)),
        *map(varint, entry.shape),
        steps[:, 1:].tobytes() if short else steps.tobytes(),
    ]
    if entry.codebook:
        parts.append(varint(len(entry.codebook)))
        parts.append(struct.pack(f"<{len(entry.codebook)}f", *entry.codebook))
    if entry.relative:
        parts.append(entry.base_check.to_bytes(4, "little"))
    if entry.coder in (Coder.LZMA, Coder.ANS):
        parts.append(bytes((entry.width,)))
    if entry.coder == Coder.SAME:
        parts.append(varint(entry.source))
    return b"".join(parts)


@final
class Heads:
    """The heads of a file, read one after the other: each is written relative to the last."""

    def __init__(self) -> None:
        self.entries: list[TensorEntry] = []
        self._names: set[str] = set()

    def read(self, record: Record) -> TensorEntry:
        """The head of the next tensor's record.

        Raises:
            FormatError: It contradicts itself or what came before; names the offset.
        """
        buffer = Buffer(record.head)
        try:
            entry = _parse(buffer, record, self.entries)
        except FormatError as error:
            fact = str(error).rstrip(".")
            fail(record.head_offset, f"a tensor's head is damaged ({fact})")
        if not buffer.at_end():
            fail(record.head_offset + buffer.offset, "a tensor's head is longer than it says")
        if entry.name in self._names:
            fail(record.head_offset, f"two tensors are named '{entry.name}'")
        self.entries.append(entry)
        self._names.add(entry.name)
        return entry


def _parse(buffer: Buffer, record: Record, before: Sequence[TensorEntry]) -> TensorEntry:
    name = _name(buffer, before[-1].name if before else "")
    form = read_varint(buffer)[0]
    coder, code, has_codebook = form & CODERS, (form >> TYPE) ^ USUAL, bool(form & CODEBOOK)
    if code >= len(DTYPES) or coder >= len(Coder):
        raise FormatError("an unknown type of element, coder or flag")
    dims, _ = read_varint(buffer)
    if dims > MAX_DIMS:
        raise FormatError(f"{dims} dimensions, {MAX_DIMS} at most")
    shape = tuple(read_varint(buffer)[0] for _ in range(dims))
    if prod(max(side, 1) for side in shape) > MAX_ELEMENTS:
        raise FormatError(f"a shape of {shape}")
    quantised, per_row = bool(form & QUANTISED), bool(form & PER_ROW)
    steps: tuple[float, ...] = ()
    if quantised:
        steps = _steps(buffer, shape, per_row=per_row, short=bool(form & SHORT_STEPS))
        if DTYPES[code] not in FLOATS:
            raise FormatError(f"levels cannot stand for {DTYPES[code]}")
    elif form & (DEPENDENT | SHORT_STEPS | PER_ROW | CODEBOOK):
        raise FormatError("flags of levels on a tensor without")
    if form & DEPENDENT and coder not in (Coder.CABAC, Coder.PARTS):
        raise FormatError("a trellis without arithmetic coding")
    if has_codebook and (per_row or form & DEPENDENT):
        raise FormatError("a codebook beside a trellis or steps per row")
    codebook = _codebook(buffer) if has_codebook else ()
    relative = bool(form & RELATIVE)
    base_check = int.from_bytes(buffer.take(4), "little") if relative else 0
    width = buffer.take(1)[0] if coder in (Coder.LZMA, Coder.ANS) else 0
    source = 0
    if coder == Coder.SAME:
        source, _ = read_varint(buffer)
        if quantised or relative or record.payload_bytes or source >= len(before):
            raise FormatError("a repeated tensor that is not an earlier one")
        first = before[source]
        if first.dtype != DTYPES[code] or first.shape != shape:
            raise FormatError(f"it repeats '{first.name}', which is of another type or shape")
    return TensorEntry(
        name=name,
        dtype=DTYPES[code],
        shape=shape,
        coder=Coder(coder),
        width=width,
        quantised=quantised,
        dependent=bool(form & DEPENDENT),
        steps=steps,
        per_row=per_row,
        codebook=codebook,
        relative=relative,
        base_check=base_check,
        source=source,
        offset=record.offset,
        file_bytes=record.file_bytes,
    )


def _name(buffer: Buffer, last: str) -> str:
    shared, _ = read_varint(buffer)
    number, _ = read_varint(buffer)
    length, ending = number >> 3, number & 7
    if ending >= len(ENDINGS):
        raise FormatError("a name with an unknown ending")
    whole = shared + length + len(ENDINGS[ending])
    if shared > len(last.encode()) or not 0 < whole <= MAX_NAME:
        raise FormatError("a name of impossible length")
    try:
        return (last.encode()[:shared] + bytes(buffer.take(length))).decode() + ENDINGS[ending]
    except UnicodeDecodeError:
        raise FormatError("a name that is not UTF-8") from None


def _steps(
    buffer: Buffer, shape: tuple[int, ...], *, per_row: bool, short: bool
) -> tuple[float, ...]:
    if per_row and not shape:
        raise FormatError("steps per row of a tensor without rows")
    count = shape[0] if per_row else 1
    raw = np.frombuffer(buffer.take((2 if short else 4) * count), "<u2" if short else "<u4")
    steps = tuple((raw.astype(np.uint32) << (16 if short else 0)).view(np.float32).tolist())
    if not all(0 < step < float("inf") for step in steps):
        raise FormatError("a step that is not positive and finite")
    return steps


def _codebook(buffer: Buffer) -> tuple[float, ...]:
    count, _ = read_varint(buffer)
    if not 0 < count <= MAX_CODEBOOK:
        raise FormatError(f"a codebook of {count} values")
    values = struct.unpack(f"<{count}f", buffer.take(4 * count))
    ascends = all(value < other for value, other in pairwise(values))
    if not ascends or not all(abs(value) < float("inf") for value in values):
        raise FormatError("a codebook whose values do not ascend")
    return values
