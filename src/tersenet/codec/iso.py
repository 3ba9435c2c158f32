"""Interchange: files of ISO/IEC 15938-17 (NNC) as NNCodec 2.1.3 writes and reads them.

    data = encode_nnc({"fc.weight": Quantised(levels=..., step=step_of(-20)), "n": counts})
    weights = decode_nnc(data)

Covered: start, model parameter set, topology (read and passed over), and tensors as FLOAT
(uniform or dependent quantisation), INT and RAW, with skipped rows and signalled initial
states, in profile 1. Not covered, and refused by name: codebooks, BLOCK units, scan
orders other than rows, temporal contexts, layer parameter sets, profile 0.

The standard itself was not at hand: this follows what the reference software does, and
`docs/codec.md` says how that was checked, and what about patents.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, log2, prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec import levels as bins
from tersenet.codec.bits import BitReader, BitWriter
from tersenet.codec.cabac import decode_levels, encode_levels
from tersenet.codec.quantised import Quantised
from tersenet.codec.reader import MAX_BYTES
from tersenet.codec.records import fail
from tersenet.errors import FormatError

DENSITY: Final = 2
"""log2 of the quantisation parameters per octave."""

START, MODEL, LAYER, TOPOLOGY, QUANTISATION, DATA, AGGREGATE = range(7)
INT, FLOAT, RAW, BLOCK = range(4)
NAMES: Final = ("start", "model", "layer", "topology", "quantisation", "data", "aggregate")
STEEPEST: Final = 95
"""Octaves of a step beyond which a level of 32 bits times the step is no 32-bit float."""
LONG: Final = 1 << 15
"""Bytes from which a unit's size takes 4 bytes instead of 2."""


def step_of(qp: int, *, density: int = DENSITY) -> float:
    """The step size that a quantisation parameter stands for."""
    per_octave = 1 << density
    return (per_octave + (qp & (per_octave - 1))) * 2.0 ** ((qp >> density) - density)


def nearest_qp(step: float, *, density: int = DENSITY) -> int:
    """The quantisation parameter whose step is closest in ratio."""
    octave = floor(log2(step))
    guess = (octave << density) + ceil((step / 2.0**octave - 1) * (1 << density)) - 1
    ratios = {qp: abs(log2(step_of(qp, density=density) / step)) for qp in range(guess, guess + 3)}
    return min(ratios, key=lambda qp: ratios[qp])


def encode_nnc(tensors: Mapping[str, NDArray[Any] | Quantised]) -> bytes:
    """Writes a file that NNCodec reads.

    Args:
        tensors: Levels with one step, which must be `step_of` some parameter; integers of
            32 bits, kept as they are; 32-bit floats, kept as they are, uncoded.

    Raises:
        ValueError: A tensor that the format, or its reference reader, cannot take.
    """
    qps = {
        name: _exact_qp(name, tensor)
        for name, tensor in tensors.items()
        if isinstance(tensor, Quantised)
    }
    low, high = min(qps.values(), default=0), max(qps.values(), default=0)
    if high - low > 255:
        raise ValueError(f"Steps of {step_of(low)} and {step_of(high)} are too far apart.")
    base = low + 128 if high - low > 127 else low
    out = [_unit(START, b"\x01"), _unit(MODEL, _model_set(base))]
    for name, tensor in tensors.items():
        out.append(_unit(DATA, _data(name, tensor, qps.get(name, base) - base)))
    return b"".join(out)


def decode_nnc(
    data: bytes | bytearray | memoryview, *, max_bytes: int = MAX_BYTES
) -> dict[str, NDArray[Any]]:
    """Reads a file as NNCodec writes it: float32 and int32 tensors by name.

    The format has no checksum: damage that leaves the code's structure intact goes
    unnoticed. Our own container has one.

    Args:
        data: The whole file.
        max_bytes: What the decoded tensors may take together.

    Raises:
        FormatError: Not such a file, damaged, or with tools that are not covered.
    """
    view = memoryview(data).cast("B")
    model: _Model | None = None
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
            name, tensor = _read_data(view, reader, end, model, max_bytes)
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


@dataclass(frozen=True, kw_only=True)
class _Model:
    density: int
    qp: int
    parents: bool
    indexed: bool


@dataclass(kw_only=True)
class _Head:
    """What stands before a tensor's payload."""

    kind: int
    dependent: bool
    shape: tuple[int, ...]
    unary: int


def _exact_qp(name: str, tensor: Quantised) -> int:
    if np.ndim(tensor.step) != 0 or tensor.dtype != "float32":
        raise ValueError(f"'{name}': the format has one step per tensor, and 32-bit floats.")
    step = float(tensor.step)
    qp = nearest_qp(step)
    if step_of(qp) != step:
        raise ValueError(f"'{name}': a step of {step} is none of the format's: take {step_of(qp)}.")
    return qp


def _unit(kind: int, body: bytes) -> bytes:
    """A unit: its size, which counts itself, its kind, and that it stands alone."""
    size = 2 + 1 + len(body)
    front = size.to_bytes(2, "big")
    if size >= LONG:
        front = (size + 2 | 1 << 31).to_bytes(4, "big")
    return front + bytes((kind << 2 | 2,)) + body


def _model_set(qp: int) -> bytes:
    out = BitWriter()
    out.u(5, 0)  # no topology, no performance maps
    out.u(3, 1)  # uniform steps
    out.u(1, 0)  # names, not indices
    out.u(4, 0)  # no base model, no validation, no metric, no parents
    out.u(3, 0)
    out.u(3, DENSITY)
    out.u(13, qp)
    out.align()
    return out.bytes()


def _data(name: str, tensor: NDArray[Any] | Quantised, qp: int) -> bytes:
    levels = tensor.levels if isinstance(tensor, Quantised) else tensor
    if not name or "\0" in name or "_G" in name or "_H" in name:
        raise ValueError(f"'{name}': names are not empty, and hold neither NUL nor '_G' nor '_H'.")
    if levels.ndim == 0 or not levels.size:
        raise ValueError(f"'{name}': the reference reader takes no shape {levels.shape}.")
    kind, payload = INT, b""
    dependent = False
    if isinstance(tensor, Quantised):
        kind, dependent = FLOAT, tensor.dependent
        payload = encode_levels(
            levels.astype(np.int32),
            dependent=dependent,
            leading=(qp & ((1 << (6 + DENSITY)) - 1), 6 + DENSITY),
        )
    elif levels.dtype == np.int32:
        payload = encode_levels(levels)
    elif levels.dtype == np.float32:
        kind, payload = RAW, levels.astype("<f4").tobytes()
    else:
        raise ValueError(f"'{name}': the format has int32 and float32, not {levels.dtype}.")
    out = BitWriter()
    out.u(5, kind)
    out.u(3, 1)  # one tensor, in the usual type, with its shape
    out.text(name)
    out.u(1, 0)  # no node id
    if kind == FLOAT:
        out.u(1, 0)  # no codebook
    if kind != RAW:
        out.u(1, dependent)
    out.u(2, 3)  # shape and length of the unary code follow
    out.u(4, 0)
    out.ue(1, levels.ndim)
    for side in levels.shape:
        out.ue(7, side)
    out.u(8, bins.UNARY - 1)
    if levels.ndim > 1:
        out.ue(1, 0)
        out.u(4, 0)  # row by row
    out.align()
    return out.bytes() + payload


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


def _read_model(reader: BitReader) -> _Model:
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
    return _Model(density=density, qp=qp, parents=bool(parents), indexed=indexed)


def _read_data(
    view: memoryview, reader: BitReader, end: int, model: _Model, max_bytes: int
) -> tuple[str, NDArray[Any]]:
    start = reader.offset
    name, head = _read_data_head(reader, model)
    if (nbytes := 4 * prod(head.shape)) > max_bytes:
        fail(start, f"'{name}' takes {nbytes} bytes of which {max_bytes} are allowed (max_bytes)")
    payload = view[reader.offset : end]
    if head.kind == RAW:
        if len(payload) != nbytes:
            fail(reader.offset, f"'{name}' has {len(payload)} bytes where {nbytes} are due")
        return name, np.frombuffer(bytes(payload), "<f4").reshape(head.shape)
    bits = 6 + model.density if head.kind == FLOAT else 0
    try:
        coded = decode_levels(
            payload, head.shape, dependent=head.dependent, leading_bits=bits, unary=head.unary
        )
    except FormatError as error:
        fail(reader.offset, f"'{name}' is damaged: {str(error)[0].lower()}{str(error)[1:-1]}")
    if coded.bytes_read != len(payload):
        fail(reader.offset + coded.bytes_read, f"bytes follow the code of '{name}'")
    if head.kind == INT:
        return name, coded.levels
    qp = model.qp + coded.leading - (coded.leading >> (bits - 1) << bits)
    if not -STEEPEST < qp >> model.density < STEEPEST:
        fail(reader.offset, f"'{name}' has a step of 2**{qp >> model.density}")
    # In single precision, level first: bit for bit what the reference computes.
    step = np.float32(step_of(qp, density=model.density))
    return name, coded.levels.astype(np.float32) * step


def _read_data_head(reader: BitReader, model: _Model) -> tuple[str, _Head]:
    start = reader.offset
    kind = reader.u(5)
    several, typed, described = reader.u(1), reader.u(1), reader.u(1)
    if kind not in (INT, FLOAT, RAW) or several or model.indexed:
        fail(start, "a tensor as a block or by index, which is not read yet")
    name = reader.text()
    if reader.u(1):
        for order in (1, 5, 4):
            reader.ue(order)
    if model.parents and reader.u(1):
        fail(start, f"'{name}' is an update to a parent, which is not read yet")
    if kind == FLOAT and reader.u(1):
        fail(start, f"'{name}' has a codebook, which is not read yet")
    dependent = bool(reader.u(1)) if kind != RAW else False
    if typed:
        reader.u(7)
    if not described:
        fail(start, f"'{name}' comes without its shape")
    shaped, counted, parts = reader.u(1), reader.u(1), reader.u(4)
    if not shaped or parts:
        fail(start, f"'{name}' comes without its shape, or in parts")
    dims = reader.ue(1)
    if dims > 32:
        fail(start, f"'{name}' has {dims} dimensions")
    shape = tuple(reader.ue(7) for _ in range(dims))
    unary = (reader.u(8) if counted else 9) + 1
    if unary > bins.MAX_UNARY:
        fail(start, f"'{name}' has {unary} unary flags, at most {bins.MAX_UNARY} are read")
    if dims > 1:
        reader.ue(1)
        if reader.u(4):
            fail(start, f"'{name}' is scanned in blocks, which is not read yet")
    reader.align()
    return name, _Head(kind=kind, dependent=dependent, shape=shape, unary=unary)
