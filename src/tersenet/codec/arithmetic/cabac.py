"""Integer tensors as NNC payloads: context-adaptive binary arithmetic coding.

The bytes are those of a tensor's payload in ISO/IEC 15938-17 as NNCodec 2.1.3 reads and
writes them; `docs/codec.md` says what was compared, and what about patents. The coder is
universal (no table travels with the data) and lossless for every int32 tensor.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic import bins, debinarise, engine
from tersenet.codec.arithmetic.layout import EntryPoint, PayloadLayout
from tersenet.codec.arithmetic.symbols import Bins, named_contexts
from tersenet.errors import FormatError

SMALL: Final = 1 << 16
"""Levels up to which coding twice to learn whether skipping rows pays costs nothing."""


@dataclass(frozen=True, kw_only=True)
class Payload:
    """What a payload held."""

    levels: NDArray[np.int32]
    bytes_read: int
    leading: int
    """The bypass bits in front, as an unsigned number."""
    entries: tuple[EntryPoint, ...] = ()
    """With a scan in blocks: of each row of blocks but the first."""


def encode_levels(
    levels: NDArray[np.int32],
    *,
    dependent: bool = False,
    leading: tuple[int, int] = (0, 0),
    search: bool = True,
    skip_rows: bool | None = None,
    unary: int = bins.UNARY,
    limits: tuple[int, int] | None = None,
    scan: int = 0,
    trellis: int = 0,
) -> bytes:
    """Codes a tensor of any shape; the shape itself is not part of the bytes.

    Args:
        levels: Integers of any shape. Rows are the slices of the first dimension.
        dependent: The levels come from the trellis of dependent quantisation.
        leading: A number and its bits, coded in front (ISO puts the step size there).
        search: Spends a few bits to start every context where it suits the data.
        skip_rows: Codes rows that are all zero as one bin; None does what is shorter.
        unary: Flags "greater than" before the exponential-Golomb code.
        limits: As in `PayloadLayout`.
        scan: As in `PayloadLayout`.
        trellis: The state that the trellis begins in.

    Raises:
        ValueError: `dependent` is set and the trellis cannot reach a level, or a level lies
            beyond its limit.
    """
    layout = PayloadLayout(
        shape=levels.shape, dependent=dependent, leading_bits=leading[1], unary=unary,
        limits=limits, scan=scan, trellis=trellis,
    )  # fmt: skip
    return encode_tensors([(levels, layout, leading[0])], search=search, skip_rows=skip_rows)


def encode_tensors(
    tensors: Sequence[tuple[NDArray[np.int32], PayloadLayout, int]],
    *,
    search: bool = True,
    skip_rows: bool | None = None,
) -> bytes:
    """Codes tensors one after the other into one payload: (levels, layout, leading number)."""
    state = np.array([0, 510, 9, 0], dtype=np.int64)
    out = np.empty(256, dtype=np.uint8)
    for levels, layout, leading in tensors:
        choices = [skip_rows] if skip_rows is not None else _skips(levels, layout)
        tried = []
        for choice in choices:
            here = state.copy()
            buffer = out.copy() if len(choices) > 1 else out
            coded = _bins(levels, layout, skip=choice).code(buffer, here, leading, search=search)
            tried.append((int(8 * here[3] + here[2]), coded, here))
        _, out, state = min(tried, key=lambda trial: trial[0])
    out = np.concatenate((out, np.empty(64, np.uint8)))
    return out[: engine.finish(out, state)].tobytes()


def decode_levels(
    data: bytes | memoryview | NDArray[np.uint8],
    shape: Sequence[int],
    *,
    dependent: bool = False,
    leading_bits: int = 0,
    unary: int = bins.UNARY,
    limits: tuple[int, int] | None = None,
    scan: int = 0,
    trellis: int = 0,
    entries: Sequence[EntryPoint] = (),
    threads: int = 1,
) -> Payload:
    """Decodes the payload of a tensor; the inverse of `encode_levels`.

    It takes 4 bytes per level whatever the bytes say: bound the shape before calling. What
    coder and decoder must agree on is told as in `PayloadLayout`; with a scan in blocks and the
    `entries` where its rows of blocks begin, so many `threads` decode them side by side.

    Raises:
        FormatError: The bytes are not such a payload; names the offset in them.
    """
    layout = PayloadLayout(
        shape=tuple(shape), dependent=dependent, leading_bits=leading_bits, unary=unary,
        limits=limits, scan=scan, trellis=trellis,
    )  # fmt: skip
    return decode_tensors(data, [layout], entries=entries, threads=threads)[0]


def decode_tensors(
    data: bytes | memoryview | NDArray[np.uint8],
    layouts: Sequence[PayloadLayout],
    *,
    entries: Sequence[EntryPoint] = (),
    threads: int = 1,
) -> list[Payload]:
    """Decodes a payload that holds tensors one after the other.

    Raises:
        FormatError: As `decode_levels`.
    """
    data = np.frombuffer(data, dtype=np.uint8)
    stream = np.zeros(4, np.int64)
    debinarise.open_payload(data, 0, stream)
    found = [_decode_one(data, layout, stream, entries, threads) for layout in layouts]
    status, used = debinarise.read_end(data, stream)
    if status != debinarise.OK:
        _fail(data, status, layouts[-1], prod(layouts[-1].shape), int(used))
    return [replace(payload, bytes_read=int(used)) for payload in found]


def _decode_one(
    data: NDArray[np.uint8],
    layout: PayloadLayout,
    stream: NDArray[np.int64],
    entries: Sequence[EntryPoint],
    threads: int,
) -> Payload:
    out = np.empty(prod(layout.shape), dtype=np.int32)
    leading = debinarise.read_number(data, layout.leading_bits, stream)
    skipped = np.zeros(layout.shape[0] if layout.row else 0, np.uint8)
    skips = bool(layout.row) and debinarise.read_rows(data, skipped, layout.unary, stream)
    if skips and layout.scan:
        raise FormatError(
            f"Offset {min(int(stream[3]), len(data))} of an arithmetic code: it skips rows of "
            "blocks, which is not read yet."
        )
    sets = np.zeros(bins.GREATER + 2 * layout.unary + bins.PREFIXES + 2, np.uint8)
    limits = layout.bounds()
    named = named_contexts(layout)
    debinarise.read_sets(data, named, sets, stream)

    def part(begin: int, end: int, stream: NDArray[np.int64], path: NDArray[np.int64]) -> None:
        models = np.empty((len(sets), 4), np.int32)
        engine.start_contexts(sets, models)
        status, index = debinarise.read_levels(
            data, models, layout.row if skips else 0, skipped, layout.dependent, layout.unary,
            limits, path, stream, out[begin:end],
        )  # fmt: skip
        if status != debinarise.OK:
            _fail(data, status, layout, begin + int(index), int(stream[3]))

    step = layout.restarts or max(1, out.size)
    begins = range(0, out.size, step)
    path = np.array([0, layout.trellis], np.int64)
    seen: list[EntryPoint] = []
    if entries and len(entries) == len(begins) - 1 and threads > 1:
        _in_threads(data, part, begins, out.size, stream, entries, threads)
        seen = list(entries)
    else:
        last = 0
        for begin in begins:
            if layout.scan:
                path[0], stream[1] = 0, 256
                bits = int(8 * stream[3] - stream[2])
                if begin:
                    window = int(stream[0] >> stream[2]) & 255
                    seen.append(EntryPoint(bits=bits - last, window=window, trellis=int(path[1])))
                last = bits
            part(begin, min(begin + step, out.size), stream, path)
    if layout.scan:
        scanned, out = out, np.empty_like(out)
        out[layout.order()] = scanned
    levels = out.reshape(layout.shape)
    return Payload(levels=levels, bytes_read=0, leading=int(leading), entries=tuple(seen))


def _in_threads(
    data: NDArray[np.uint8],
    part: Callable[[int, int, NDArray[np.int64], NDArray[np.int64]], None],
    begins: range,
    size: int,
    stream: NDArray[np.int64],
    entries: Sequence[EntryPoint],
    threads: int,
) -> None:
    """Decodes the rows of blocks side by side; `stream` becomes that after the last."""
    first = stream.copy()
    first[1] = 256
    streams, paths = [first], [np.zeros(2, np.int64)]
    position = int(8 * first[3] - first[2])
    for entry in entries:
        position += entry.bits
        own = np.zeros(4, np.int64)
        debinarise.seek(data, position, entry.window, own)
        streams.append(own)
        paths.append(np.array([0, entry.trellis], np.int64))
    ends = [*begins[1:], size]
    with ThreadPoolExecutor(threads) as pool:
        jobs = zip(begins, ends, streams, paths, strict=True)
        for done in [pool.submit(part, *job) for job in jobs]:
            done.result()
    stream[:] = streams[-1]


def _fail(
    data: NDArray[np.uint8], status: int, layout: PayloadLayout, index: int, used: int
) -> None:
    fault = {
        debinarise.OVERRUN: f"it ends before level {index} of {prod(layout.shape)}",
        debinarise.OVERFLOW: f"level {index} is not a 32-bit number, or none of its codebook",
        debinarise.NO_END: "it does not end where its last level does",
    }[status]
    raise FormatError(f"Offset {min(used, len(data))} of an arithmetic code: {fault}.")


def _skips(levels: NDArray[np.int32], layout: PayloadLayout) -> list[bool]:
    """What to try: skipping the rows that are all zero, where there are such, and not."""
    empty = _empty_rows(levels, layout)
    if empty is None or not empty.any():
        return [False]
    return [True, False] if levels.size <= SMALL else [True]


def _empty_rows(levels: NDArray[np.int32], layout: PayloadLayout) -> NDArray[np.uint8] | None:
    if not layout.row or layout.scan:
        return None
    return np.logical_not(levels.reshape(len(levels), -1).any(axis=1)).astype(np.uint8)


def _bins(levels: NDArray[np.int32], layout: PayloadLayout, *, skip: bool) -> Bins:
    flat = np.ascontiguousarray(levels, dtype=np.int32).reshape(-1)
    order, limits = layout.order(), layout.bounds()
    if flat.size and (flat.min() < -limits[0] or flat.max() > limits[1]):
        raise ValueError(f"A level lies beyond the limits {layout.limits} of its codebook.")
    empty = _empty_rows(levels, layout) if skip else None
    skipped = empty if empty is not None and empty.any() else None
    return Bins(flat if order is None else flat[order], layout, skipped)
