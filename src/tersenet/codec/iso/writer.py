"""Writing files of ISO/IEC 15938-17 as NNCodec 2.1.3 reads them; `iso` is the way in."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic import bins
from tersenet.codec.arithmetic.cabac import decode_tensors, encode_tensors
from tersenet.codec.arithmetic.layout import EntryPoint, PayloadLayout
from tersenet.codec.iso.bits import BitWriter
from tersenet.codec.iso.exact import without_raw
from tersenet.codec.iso.units import (
    BLOCK,
    DATA,
    DENSITY,
    FLOAT,
    INT,
    LONG,
    MODEL,
    RAW,
    START,
    Codebook,
    LayerUnit,
    nearest_qp,
    step_of,
)
from tersenet.codec.levels.quantised import Quantised, zero_of

__all__ = ["encode_nnc"]


def encode_nnc(
    tensors: Mapping[str, NDArray[Any] | Quantised],
    *,
    blocks: Sequence[LayerUnit] = (),
    scan: int = 0,
) -> bytes:
    """Writes a file that NNCodec reads.

    Args:
        tensors: Levels with one step, which must be `step_of` some parameter, and a codebook of
            whole numbers or none; integers of 32 bits, kept as they are; 32-bit floats, kept as
            they are. Of those one may be uncoded, and comes last (`iso_exact` says why); where
            there are several, the others are written as levels that are exactly their values.
        blocks: Layers to write as one unit each. Their tensors are levels.
        scan: 1 to 4 code matrices in blocks of 8 to 64 rows and columns, with entry points.

    Raises:
        ValueError: A tensor that the format, or its reference reader, cannot take.
    """
    tensors = without_raw(tensors)
    qps = {
        name: _exact_qp(name, tensor)
        for name, tensor in tensors.items()
        if isinstance(tensor, Quantised)
    }
    low, high = min(qps.values(), default=0), max(qps.values(), default=0)
    if high - low > 255:
        raise ValueError(f"Steps of {step_of(low)} and {step_of(high)} are too far apart.")
    base = low + 128 if high - low > 127 else low
    books = any(
        isinstance(tensor, Quantised) and tensor.codebook is not None for tensor in tensors.values()
    )
    out = [_unit(START, b"\x01"), _unit(MODEL, _model_set(base, codebooks=books))]
    inside = {name for block in blocks for name in block.names_in_head()}
    alone = [LayerUnit(weight=name) for name in tensors if name not in inside]
    raw = [block for block in alone if getattr(tensors[block.weight], "dtype", None) == np.float32]
    for block in (*(block for block in alone if block not in raw), *blocks, *raw):
        parts = {name: tensors[name] for name in block.names_as_coded()}
        out.append(_unit(DATA, _data(block, parts, {n: q - base for n, q in qps.items()}, scan)))
    return b"".join(out)


def _exact_qp(name: str, tensor: Quantised) -> int:
    if np.ndim(tensor.step) != 0 or tensor.dtype != "float32" or tensor.base is not None:
        raise ValueError(
            f"'{name}': the format has one step per tensor, 32-bit floats, and no base here."
        )
    step = float(tensor.step)
    qp = nearest_qp(step)
    if step_of(qp) != step:
        raise ValueError(f"'{name}': a step of {step} is none of the format's: take {step_of(qp)}.")
    return qp


def _unit(kind: int, body: bytes) -> bytes:
    """A unit: its size, which counts itself, its kind, and that it stands alone."""
    size = 2 + 1 + len(body)
    front = size.to_bytes(2, "big") if size < LONG else (size + 2 | 1 << 31).to_bytes(4, "big")
    return front + bytes((kind << 2 | 2,)) + body


def _model_set(qp: int, *, codebooks: bool) -> bytes:
    out = BitWriter()
    out.u(5, 0)  # no topology, no performance maps
    out.u(3, 3 if codebooks else 1)  # uniform steps, and codebooks
    out.u(1, 0)  # names, not indices
    out.u(4, 0)  # no base model, no validation, no metric, no parents
    out.u(3, 0)
    out.u(3, DENSITY)
    out.u(13, qp)
    out.align()
    return out.bytes()


def _data(
    block: LayerUnit,
    parts: Mapping[str, NDArray[Any] | Quantised],
    qps: Mapping[str, int],
    scan: int,
) -> bytes:
    weight = parts[block.weight]
    array = weight.levels if isinstance(weight, Quantised) else weight
    for name, part in parts.items():
        _check(name, part.levels.astype(np.int32) if isinstance(part, Quantised) else part)
    if isinstance(weight, np.ndarray) and weight.dtype == np.float32:
        return _head(RAW, block, array.shape) + weight.astype("<f4").tobytes()
    book = None
    if isinstance(weight, Quantised) and weight.codebook is not None:
        book = _codebook(block.weight, weight)
    scan = scan if array.ndim > 1 else 0
    coded = []
    for name, part in parts.items():
        levels = part.levels if isinstance(part, Quantised) else part
        dependent, leading, bits = False, 0, 0
        if isinstance(part, Quantised):
            dependent, bits = part.dependent, 6 + DENSITY
            leading = qps[name] & ((1 << bits) - 1)
            if dependent != bool(isinstance(weight, Quantised) and weight.dependent):
                raise ValueError(f"'{name}': all tensors of a block use the trellis, or none.")
            if name != block.weight and (part.codebook is not None or len(levels) != len(array)):
                raise ValueError(f"'{name}': beside its weight a block has part value per output.")
        own = name == block.weight
        layout = PayloadLayout(
            shape=levels.shape, dependent=dependent, leading_bits=bits,
            limits=book.limits if book and own else None, scan=scan if own else 0,
        )  # fmt: skip
        coded.append((levels.astype(np.int32), layout, leading))
    payload = encode_tensors(coded)
    entries: tuple[EntryPoint, ...] = ()
    if scan:
        entries = decode_tensors(payload, [layout for _, layout, _ in coded])[-1].entries
    kind = FLOAT if isinstance(weight, Quantised) else INT
    if len(parts) > 1:
        if kind == INT or not all(isinstance(part, Quantised) for part in parts.values()):
            raise ValueError(f"'{block.weight}': all tensors of a block are levels with a step.")
        kind = BLOCK
    dependent = coded[-1][1].dependent
    return _head(kind, block, array.shape, dependent, book, scan, entries) + payload


def _check(name: str, levels: NDArray[Any]) -> None:
    if not name or "\0" in name or "_G" in name or "_H" in name:
        raise ValueError(f"'{name}': names are not empty, and hold neither NUL nor '_G' nor '_H'.")
    if levels.ndim == 0 or not levels.size:
        raise ValueError(f"'{name}': the reference reader takes no shape {levels.shape}.")
    if levels.dtype.kind not in "iu" and levels.dtype != np.float32:
        raise ValueError(f"'{name}': the format has int32 and float32, not {levels.dtype}.")
    if levels.dtype.kind in "iu" and levels.dtype.itemsize > 4:
        raise ValueError(f"'{name}': the format has int32 and float32, not {levels.dtype}.")


def _codebook(name: str, tensor: Quantised) -> Codebook:
    values = np.asarray(tensor.codebook, np.float32)
    whole = np.rint(values).astype(np.int64)
    if (whole != values).any() or np.abs(whole).max() >= 1 << 24 or len(whole) < 2:
        raise ValueError(
            f"'{name}': the format's codebooks are two or more whole numbers of steps."
        )
    return Codebook(values=tuple(map(int, whole)), zero=zero_of(values))


def _head(
    kind: int,
    block: LayerUnit,
    shape: tuple[int, ...],
    dependent: bool = False,
    book: Codebook | None = None,
    scan: int = 0,
    entries: tuple[EntryPoint, ...] = (),
) -> bytes:
    out = BitWriter()
    out.u(5, kind)
    out.u(1, kind == BLOCK)
    out.u(2, 1)  # in the usual type, with its shape
    names = block.names_in_head()
    if kind == BLOCK:
        out.ue(7, len(names) - 2)
        out.align()
    for name in names:
        out.text(name)
    out.u(1, 0)  # no node id
    if kind in (FLOAT, BLOCK):
        out.u(1, book is not None)
        if book:
            _write_codebook(out, book)
    if kind != RAW:
        out.u(1, dependent)
    out.u(2, 3)  # shape and length of the unary code follow
    out.u(4, block.kinds)
    out.ue(1, len(shape))
    for side in shape:
        out.ue(7, side)
    out.u(8, bins.UNARY - 1)
    if len(shape) > 1:
        out.ue(1, 0)
        out.u(4, scan)
        last = 0
        for index, entry in enumerate(entries):
            out.u(8, entry.window)
            if dependent:
                out.u(3, entry.trellis)
            out.ie(7, entry.bits - last) if index else out.ue(11, entry.bits)
            last = entry.bits
    out.align()
    return out.bytes()


def _write_codebook(out: BitWriter, book: Codebook) -> None:
    """The value of level 0, then steps to the left and to the right, at the best order."""
    left = [b - a - 1 for a, b in zip(book.values, book.values[1:], strict=False)]
    deltas = [*left[: book.zero][::-1], *left[book.zero :]]

    def length(order: int) -> int:
        trial = BitWriter()
        for delta in deltas:
            trial.ue(order, delta)
        return trial.length

    order = min(range(16), key=length)
    out.u(4, order)
    out.ue(2, len(book.values))
    out.ie(2, book.zero - (len(book.values) >> 1))
    out.ie(7, book.values[book.zero])
    for delta in deltas:
        out.ue(order, delta)
