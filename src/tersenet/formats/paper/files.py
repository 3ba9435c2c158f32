"""The four paper formats as bytes: every array bit-packed at its own width.

    offset  bytes  what
    0       4      "TNF1"
    4       1      format: 0 dense, 1 CSR, 2 CER, 3 CSER
    5       1      type of the matrix: a place in DTYPES
    6       1      bits of a stored value: 8, 16, 32 or 64
    7       1      1 where stored values are signed integers
    8       8      rows, columns: 32 bits each
    16      8      entries of each array in the order of `Matrix.arrays()`, 64 bits each
    …              the arrays in that order: values little-endian, all else packed from the
                   highest bit on at the width that `arrays()` states, each array whole bytes
    end - 4 4      CRC-32 of all that is before

All numbers are little-endian. Nothing is allocated before the length of the file proves it.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tersenet.errors import FormatError
from tersenet.formats.levels import index_bits, value_bits
from tersenet.formats.matrix import CountedMatrix, Matrix
from tersenet.formats.paper.cer import Cer, Cser
from tersenet.formats.paper.classic import Csr, Dense, column_dtype, pointer_dtype

__all__ = ["DTYPES", "from_bytes", "to_bytes"]

DTYPES: Final = (
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
_MAGIC: Final = b"TNF1"
_HEADER: Final = struct.Struct("<4sBBBBII")
_FORMATS: Final[tuple[type[CountedMatrix], ...]] = (Dense, Csr, Cer, Cser)
_CHUNK: Final = 1 << 16
"""Entries packed at once, a multiple of 8 so that chunks end on whole bytes."""


def to_bytes(matrix: Matrix) -> bytes:
    """The matrix as a file holds it: `matrix.bits` rounded up by array, a header and a CRC.

    Raises:
        FormatError: A format without a file: only the four paper formats have one.
    """
    values, indices = _contents(matrix)
    stored = matrix.arrays()
    bits = value_bits(values)
    signed = bool(values.dtype.kind == "i" and values.size and values.min() < 0)
    head = _HEADER.pack(
        _MAGIC,
        [kind is type(matrix) for kind in _FORMATS].index(True),
        DTYPES.index(matrix.dtype.name),
        bits,
        signed,
        *matrix.shape,
    )
    counts = struct.pack(f"<{len(stored)}Q", *(array.entries for array in stored))
    kind = "f" if values.dtype.kind == "f" else "i" if signed else "u"
    packed = [values.astype(f"<{kind}{bits // 8}").tobytes()]
    packed += [
        _pack(array, spec.bits_each) for array, spec in zip(indices, stored[1:], strict=True)
    ]
    body = b"".join((head, counts, *packed))
    return body + struct.pack("<I", zlib.crc32(body))


def from_bytes(data: bytes) -> CountedMatrix:
    """The matrix that `to_bytes` wrote.

    Raises:
        FormatError: Not such a file, damaged, truncated, or inconsistent with itself.
    """
    if len(data) < _HEADER.size + 12 or data[:4] != _MAGIC:
        raise FormatError("These bytes are no matrix file of tersenet (TNF1): check the path.")
    body = data[:-4]
    if zlib.crc32(body) != struct.unpack("<I", data[-4:])[0]:
        raise FormatError("The matrix file is damaged (its CRC-32 differs): copy it again.")
    _, code, dtype_code, bits, signed, rows, columns = _HEADER.unpack_from(body)
    _require(code < len(_FORMATS), f"format {code} is unknown")
    _require(dtype_code < len(DTYPES), f"type {dtype_code} is unknown")
    _require(rows > 0 and columns > 0, f"it is of shape ({rows}, {columns})")
    dtype = np.dtype(DTYPES[dtype_code])
    reader = _Reader(body, _HEADER.size)
    counts = reader.counts((1, 3, 4, 5)[code])
    values = reader.values(counts[0], dtype, bits, signed=bool(signed))
    matrix = _BUILDERS[code](reader, counts, values, (rows, columns))
    _require(reader.at == len(body), f"{len(body) - reader.at} bytes are left over")
    return matrix


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise FormatError(f"The matrix file contradicts itself, {what}: write it again.")


def _contents(matrix: Matrix) -> tuple[NDArray[Any], tuple[NDArray[Any], ...]]:
    """The values, and the index arrays in the order of `arrays()`."""
    match matrix:
        case Dense():
            return matrix.elements.reshape(-1), ()
        case Csr():
            return matrix.values, (matrix.columns, matrix.row_starts)
        case Cser():
            pointers = (matrix.segment_starts, matrix.row_starts)
            return matrix.values, (matrix.columns, matrix.ranks, *pointers)
        case Cer():
            return matrix.values, (matrix.columns, matrix.segment_starts, matrix.row_starts)
        case _:
            raise FormatError(
                f"{type(matrix).__name__} has no file of its own: encode the levels as Cer."
            )


def _pack(array: NDArray[Any], bits: int) -> bytes:
    parts = []
    for start in range(0, len(array), _CHUNK):
        wide = array[start : start + _CHUNK].astype(">u8")
        every = np.unpackbits(wide.view(np.uint8).reshape(-1, 8), axis=1)
        parts.append(np.packbits(every[:, 64 - bits :]).tobytes())
    return b"".join(parts)


class _Reader:
    """Takes arrays off a file, each only if the file still holds it."""

    def __init__(self, body: bytes, at: int) -> None:
        self.body = body
        self.at = at

    def take(self, count: int) -> bytes:
        left = len(self.body) - self.at
        _require(count <= left, f"{count} bytes are due where {left} are left")
        self.at += count
        return self.body[self.at - count : self.at]

    def counts(self, arrays: int) -> tuple[int, ...]:
        return struct.unpack(f"<{arrays}Q", self.take(8 * arrays))

    def values(self, count: int, dtype: np.dtype[Any], bits: int, *, signed: bool) -> NDArray[Any]:
        kind = "f" if dtype.kind == "f" else "i" if signed else "u"
        allowed = (8 * dtype.itemsize,) if kind == "f" else (8, 16, 32, 64)
        _require(bits in allowed, f"values of {dtype} have {bits} bits")
        stored = np.frombuffer(self.take(count * bits // 8), f"<{kind}{bits // 8}")
        out = stored.astype(dtype)
        finite = kind != "f" or bool(np.isfinite(out).all())
        _require(finite and bool((out == stored).all()), f"values do not fit {dtype}")
        return out

    def indices(self, count: int, things: int, what: str) -> NDArray[np.int64]:
        """`count` indices, each below `things`."""
        bits = index_bits(things)
        raw = np.frombuffer(self.take(-(-count * bits // 8)), np.uint8)
        out = np.empty(count, np.int64)
        for start in range(0, count, _CHUNK):
            some = min(_CHUNK, count - start)
            first = start * bits // 8
            every = np.unpackbits(raw[first : first + -(-some * bits // 8)])[: some * bits]
            wide = np.zeros((some, 64), np.uint8)
            wide[:, 64 - bits :] = every.reshape(some, bits)
            out[start : start + some] = np.packbits(wide).view(">u8").astype(np.int64)
        _require(count == 0 or int(out.max()) < things, f"{what} point outside")
        return out

    def starts(self, count: int, last: int, what: str) -> NDArray[Any]:
        """Positions that rise from 0 to `last`."""
        out = self.indices(count, last + 1, what)
        ends = count > 0 and int(out[0]) == 0 and int(out[-1]) == last
        _require(ends and bool((np.diff(out) >= 0).all()), f"{what} do not rise from 0 to {last}")
        return out.astype(pointer_dtype(last))


def _dense(
    _: _Reader, counts: tuple[int, ...], values: NDArray[Any], shape: tuple[int, int]
) -> CountedMatrix:
    _require(counts[0] == shape[0] * shape[1], f"{counts[0]} elements are not {shape}")
    return Dense(shape=shape, dtype=values.dtype, elements=values.reshape(shape))


def _csr(
    reader: _Reader, counts: tuple[int, ...], values: NDArray[Any], shape: tuple[int, int]
) -> CountedMatrix:
    _require(counts[1:] == (counts[0], shape[0] + 1), f"array lengths are {counts}")
    columns = reader.indices(counts[1], shape[1], "columns")
    starts = reader.starts(counts[2], counts[1], "rows")
    _require(_rising_within(columns, starts), "columns do not rise in their row")
    return Csr(
        shape=shape,
        dtype=values.dtype,
        values=values,
        columns=columns.astype(column_dtype(shape[1])),
        row_starts=starts,
    )


def _segments(
    reader: _Reader, counts: tuple[int, ...], values: NDArray[Any], shape: tuple[int, int]
) -> CountedMatrix:
    """CER, or CSER where there is an array of ranks (five arrays instead of four)."""
    shared = len(counts) == 5
    stored, segments = counts[1], counts[-2] - 1
    _require(counts[0] > 0, "it has no values")
    _require(len(np.unique(values)) == len(values), "values occur twice")
    _require(segments >= 0 and counts[-1] == shape[0] + 1, f"array lengths are {counts}")
    _require(not shared or counts[2] == segments, f"array lengths are {counts}")
    columns = reader.indices(stored, shape[1], "columns")
    ranks = reader.indices(segments, len(values), "ranks") if shared else None
    segment_starts = reader.starts(counts[-2], stored, "segments")
    row_starts = reader.starts(counts[-1], segments, "rows")
    _require(_rising_within(columns, segment_starts), "columns do not rise in their segment")
    per_row = np.diff(row_starts.astype(np.int64))
    elements = np.diff(segment_starts[row_starts.astype(np.int64)].astype(np.int64))
    row_of = np.repeat(np.arange(shape[0]), elements)
    places = row_of * shape[1] + columns
    _require(len(np.unique(places)) == len(places), "a place has two values")
    common = {
        "shape": shape,
        "dtype": values.dtype,
        "values": values,
        "columns": columns.astype(column_dtype(shape[1])),
        "segment_starts": segment_starts,
        "row_starts": row_starts,
    }
    if ranks is None:
        _require(int(per_row.max()) < len(values), "a row has more segments than values")
        return Cer(**common)
    _require(bool((ranks > 0).all()), "the omitted value is stored")
    return Cser(**common, ranks=ranks.astype(np.uint32))


def _rising_within(columns: NDArray[np.int64], starts: NDArray[Any]) -> bool:
    """Whether columns rise strictly wherever no new group starts."""
    new = np.zeros(len(columns) + 1, bool)
    new[starts.astype(np.int64)] = True
    return bool(((np.diff(columns) > 0) | new[1:-1][: max(0, len(columns) - 1)]).all())


_Builder = Callable[
    [_Reader, tuple[int, ...], NDArray[Any], tuple[int, int]],
    CountedMatrix,
]
_BUILDERS: Final[tuple[_Builder, ...]] = (_dense, _csr, _segments, _segments)
