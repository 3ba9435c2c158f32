"""Reading files of ISO/IEC 15938-17 as NNCodec 2.1.3 writes them; `iso` is the way in."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic import bins
from tersenet.codec.arithmetic.cabac import decode_tensors
from tersenet.codec.arithmetic.layout import EntryPoint, PayloadLayout
from tersenet.codec.container.heads import MAX_ELEMENTS
from tersenet.codec.container.reader import MAX_BYTES
from tersenet.codec.container.records import fail
from tersenet.codec.iso.bits import BitReader
from tersenet.codec.iso.units import (
    BLOCK,
    DATA,
    DECOMPOSED,
    FLOAT,
    INT,
    MODEL,
    NAMES,
    RAW,
    START,
    STEEPEST,
    TOPOLOGY,
    Codebook,
    Head,
    LayerUnit,
    Model,
    step_of,
)
from tersenet.codec.levels.quantised import MAX_CODEBOOK
from tersenet.errors import FormatError

__all__ = ["decode_nnc"]


def decode_nnc(
    data: bytes | bytearray | memoryview, *, max_bytes: int = MAX_BYTES, threads: int = 1
) -> dict[str, NDArray[Any]]:
    """Reads a file as NNCodec writes it: float32 and int32 tensors by name.

    The format has no checksum: damage that leaves the code's structure intact goes
    unnoticed. Our own container has one.

    Args:
        data: The whole file.
        max_bytes: What the decoded tensors may take together.
        threads: To decode rows of blocks on, where a tensor has entry points.

    Raises:
        FormatError: Not such a file, damaged, or with tools that are not covered.
    """
    view = memoryview(data).cast("B")
    model: Model | None = None
    tensors: dict[str, NDArray[Any]] = {}
    offset = 0
    while offset < len(view):
        reader, kind, end = _open_unit(view, offset)
        if (kind == START) != (offset == 0):
            fail(offset, "the first unit, and no other, must be a start unit")
        if kind == START and reader.u(8) != 1:
            fail(offset, "only profile 1 is read")
        elif kind == MODEL:
            if model is not None:
                fail(offset, "a second model parameter set")
            model = _read_model(reader)
        elif kind == DATA:
            if model is None:
                fail(offset, "a tensor before the model parameter set")
            for name, tensor in _read_data(view, reader, end, model, max_bytes, threads):
                if name in tensors:
                    fail(offset, f"two tensors are named '{name}'")
                max_bytes -= tensor.nbytes
                tensors[name] = tensor
        elif kind not in (START, TOPOLOGY):
            fail(offset, f"a {NAMES[kind]} unit, which is not read yet")
        offset = end
    if not offset:
        fail(0, "the file is empty")
    return tensors


def _open_unit(view: memoryview, offset: int) -> tuple[BitReader, int, int]:
    """Reads a unit's size and kind; returns a reader that stands behind them, and its end."""
    reader = BitReader(view, offset, len(view))
    size = reader.u(15 + 16 * reader.u(1))
    end = offset + size
    if end > len(view) or end <= reader.offset:
        fail(offset, f"a unit of {size} bytes where {len(view) - offset} are left")
    reader = BitReader(view, reader.offset, end)
    kind = reader.u(6)
    if kind >= len(NAMES):
        fail(offset, f"a unit of unknown kind {kind}")
    reader.u(1)
    if reader.u(1):
        fail(offset, "a unit in parts, which is not read yet")
    return reader, kind, end


def _read_model(reader: BitReader) -> Model:
    start = reader.offset
    reader.u(1)
    if reader.u(4):
        fail(start, "performance maps, which are not read yet")
    methods = reader.u(3)
    indexed = bool(reader.u(1))
    base, validation, metric, parents = (reader.u(1) for _ in range(4))
    reader.u(3)
    if base or validation or metric:
        fail(start, "a base model or validation figures, which are not read yet")
    density, qp = (reader.u(3), reader.i(13)) if methods & 3 else (0, 0)
    reader.align()
    return Model(density=density, qp=qp, parents=bool(parents), indexed=indexed)


def _read_data(
    view: memoryview, reader: BitReader, end: int, model: Model, max_bytes: int, threads: int
) -> list[tuple[str, NDArray[Any]]]:
    start = reader.offset
    head = _read_head(reader, model)
    names = head.block.names_as_coded()
    shapes = dict.fromkeys(names, head.shape[:1]) | {head.block.weight: head.shape}
    if (nbytes := 4 * sum(map(prod, shapes.values()))) > max_bytes:
        fail(
            start,
            f"'{head.block.weight}' takes {nbytes} bytes of which {max_bytes} are allowed "
            "(max_bytes)",
        )
    payload = view[reader.offset : end]
    name = head.block.weight
    if head.kind == RAW:
        if len(payload) != nbytes:
            fail(reader.offset, f"'{name}' has {len(payload)} bytes where {nbytes} are due")
        return [(name, np.frombuffer(bytes(payload), "<f4").reshape(head.shape))]
    bits = 6 + model.density if head.kind != INT else 0
    layouts = [
        PayloadLayout(
            shape=shapes[member], dependent=head.dependent, leading_bits=bits, unary=head.unary,
            limits=head.codebook.limits if head.codebook and member == name else None,
            scan=head.scan if member == name else 0,
        )
        for member in names
    ]  # fmt: skip
    try:
        coded = decode_tensors(payload, layouts, entries=head.entries, threads=threads)
    except FormatError as error:
        fail(reader.offset, f"'{name}' is damaged: {str(error)[0].lower()}{str(error)[1:-1]}")
    if coded[-1].bytes_read != len(payload):
        fail(reader.offset + coded[-1].bytes_read, f"bytes follow the code of '{name}'")
    if head.kind == INT:
        return [(name, coded[0].levels)]
    found = []
    for member, part in zip(names, coded, strict=True):
        qp = model.qp + part.leading - (part.leading >> (bits - 1) << bits)
        if not -STEEPEST < qp >> model.density < STEEPEST:
            fail(reader.offset, f"'{member}' has a step of 2**{qp >> model.density}")
        step = step_of(qp, density=model.density)
        if head.codebook is not None and member == name:
            # In double precision, and rounded once: what the reference computes.
            values = (head.codebook.weights(part.levels) * step).astype(np.float32)
        else:
            # In single precision, level first: bit for bit what the reference computes.
            values = part.levels.astype(np.float32) * np.float32(step)
        found.append((member, values))
    return found


def _read_head(reader: BitReader, model: Model) -> Head:
    start = reader.offset
    kind = reader.u(5)
    several, typed, described = reader.u(1), reader.u(1), reader.u(1)
    if kind not in (INT, FLOAT, RAW, BLOCK) or several != (kind == BLOCK) or model.indexed:
        fail(start, "a tensor by index, or several outside a block, which are not read yet")
    names = _read_names(reader) if several else [reader.text()]
    name = names[0]
    if reader.u(1):
        for order in (1, 5, 4):
            reader.ue(order)
    if model.parents and reader.u(1):
        fail(start, f"'{name}' is an update to a parent, which is not read yet")
    book = None
    if kind in (FLOAT, BLOCK) and reader.u(1):
        book = _read_codebook(reader)
    dependent = bool(reader.u(1)) if kind != RAW else False
    if typed:
        reader.u(7)
    if not described:
        fail(start, f"'{name}' comes without its shape")
    shaped, counted, kinds = reader.u(1), reader.u(1), reader.u(4)
    if not shaped:
        fail(start, f"'{name}' comes without its shape")
    block = _block(start, names, kinds, kind)
    dims = reader.ue(1)
    if dims > 32 or (kind == BLOCK and not dims):
        fail(start, f"'{name}' has {dims} dimensions")
    shape = _read_shape(reader, dims)
    unary = (reader.u(8) if counted else 9) + 1
    if unary > bins.MAX_UNARY:
        fail(start, f"'{name}' has {unary} unary flags, at most {bins.MAX_UNARY} are read")
    scan, entries = 0, ()
    if dims > 1:
        reader.ue(1)
        scan = reader.u(4)
        if scan > 4:
            fail(start, f"'{name}' is scanned in an unknown order {scan}")
        entries = _read_entries(reader, shape[0], scan, dependent=dependent)
    reader.align()
    return Head(
        kind=kind, block=block, dependent=dependent, shape=shape, unary=unary, codebook=book,
        scan=scan, entries=entries,
    )  # fmt: skip


def _block(start: int, names: list[str], kinds: int, kind: int) -> LayerUnit:
    if kinds & DECOMPOSED or (kinds and kind != BLOCK):
        fail(start, f"'{names[0]}' comes as a product, which is not read yet")
    held = (kinds & ~4).bit_count() + 4 * bool(kinds & 4)
    if len(names) != 1 + held or len(set(names)) != len(names):
        fail(start, f"a block of {len(names)} tensors where {1 + held} names are due")
    return LayerUnit.of(names, kinds)


def _read_shape(reader: BitReader, dims: int) -> tuple[int, ...]:
    start = reader.offset
    shape = tuple(reader.ue(7) for _ in range(dims))
    if prod(max(side, 1) for side in shape) > MAX_ELEMENTS:
        fail(start, f"a shape of {shape}")
    return shape


def _read_names(reader: BitReader) -> list[str]:
    start, count = reader.offset, reader.ue(7) + 2
    reader.align()
    if count > 7:
        fail(start, f"a block of {count} tensors")
    return [reader.text() for _ in range(count)]


def _read_codebook(reader: BitReader) -> Codebook:
    start, order = reader.offset, reader.u(4)
    size = reader.ue(2)
    zero = (size >> 1) + reader.ie(2)
    if not 1 < size <= MAX_CODEBOOK or not 0 <= zero < size:
        fail(start, f"a codebook of {size} values, of which level 0 is the {zero}th")
    middle = reader.ie(7)
    below, above = [middle], [middle]
    for _ in range(zero):
        below.append(below[-1] - reader.ue(order) - 1)
    for _ in range(size - zero - 1):
        above.append(above[-1] + reader.ue(order) + 1)
    values = (*below[:0:-1], *above)
    if not -(1 << 31) <= values[0] <= values[-1] < 1 << 31:
        fail(start, "a codebook beyond 32 bits")
    return Codebook(values=values, zero=zero)


def _read_entries(
    reader: BitReader, rows: int, scan: int, *, dependent: bool
) -> tuple[EntryPoint, ...]:
    if not scan:
        return ()
    entries: list[EntryPoint] = []
    for index in range(max(0, -(-rows // (4 << scan)) - 1)):
        start = reader.offset
        window, trellis = reader.u(8), reader.u(3) if dependent else 0
        bits = entries[-1].bits + reader.ie(7) if index else reader.ue(11)
        if bits < 0:
            fail(start, "an entry point that lies before the one before")
        entries.append(EntryPoint(bits=bits, window=window, trellis=trellis))
    return tuple(entries)
