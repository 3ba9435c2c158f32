"""A whole compressed network as one file, which is mapped into memory and runs from there.

    offset  bytes  what
    0       4      "TNN1"
    4       4      bytes of the description, little-endian
    8       …      the description: JSON, UTF-8
    …              arrays, little-endian, each at a multiple of 64 bytes, zeros between
    end - 4 4      CRC-32 of all that is before

The description has the input's shape and the steps in order, each with its operation, what it
reads, its settings and its arrays; an array is `[type, shape, offset]`. A matrix lies there in
the format it multiplies in, so nothing is decoded or copied when the file is opened. All is
checked first: a damaged file is refused, and a forged one cannot make a kernel leave its arrays.
"""

import dataclasses
import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from tersenet.errors import FormatError
from tersenet.formats.matrix import Matrix
from tersenet.formats.network.checks import CHECKED, check
from tersenet.formats.network.operations import OPERATIONS
from tersenet.formats.network.running import Network, NetworkStep
from tersenet.formats.paper.classic import Dense
from tersenet.formats.paper.files import DTYPES

__all__ = ["load_network", "network_bytes", "read_network"]

_MAGIC: Final = b"TNN1"
_ALIGN: Final = 64
_MATRICES: Final = {kind.__name__: kind for kind in (Dense, *CHECKED)}
_MOST: Final = 1 << 20
"""No setting of an operation is larger: kernels, strides and sizes."""


def network_bytes(network: Network) -> bytes:
    """The network as its file holds it.

    Raises:
        FormatError: A matrix is in a format that a network's file cannot hold.
    """
    arrays: list[NDArray[Any]] = []
    steps = [
        {
            "operation": type(step.operation).__name__,
            "reads": list(step.reads),
            **{
                field.name: _describe(getattr(step.operation, field.name), arrays)
                for field in dataclasses.fields(step.operation)  # type: ignore[arg-type]
            },
        }
        for step in network.steps
    ]
    description = {"input": list(network.input_shape), "steps": steps}
    # Offsets count from the first array, so that they do not depend on the description's length.
    offset = 0
    for entry, array in zip(_places(steps), arrays, strict=True):
        entry[2] = offset
        offset += -(-array.nbytes // _ALIGN) * _ALIGN
    text = json.dumps(description, separators=(",", ":")).encode()
    parts = [_MAGIC, struct.pack("<I", len(text)), text, _gap(8 + len(text))]
    for array in arrays:
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        parts += [raw, _gap(len(raw))]
    body = b"".join(parts)
    return body + struct.pack("<I", zlib.crc32(body))


def load_network(path: Path | str) -> Network:
    """The network in a file, which stays mapped: pages are read when a product needs them.

    Raises:
        FormatError: The file is missing, not such a file, damaged, or inconsistent with itself.
    """
    try:
        with Path(path).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError(f"{path} is empty: write the network again.")
            return read_network(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise FormatError(
            f"{path} cannot be read ({error.strerror or error}): give the path of a network's file."
        ) from error


def read_network(data: "bytes | mmap.mmap") -> Network:
    """The network that `network_bytes` wrote, its arrays being views of `data`.

    Raises:
        FormatError: Not such a file, damaged, truncated, or inconsistent with itself.
    """
    view = memoryview(data)
    if len(view) < 12 or view[:4] != _MAGIC:
        raise FormatError("These bytes are no network file of tersenet (TNN1): check the path.")
    if zlib.crc32(view[:-4]) != struct.unpack("<I", view[-4:])[0]:
        raise FormatError("The network's file is damaged (its CRC-32 differs): copy it again.")
    length = struct.unpack("<I", view[4:8])[0]
    _require(length <= len(view) - 12, "its description goes beyond its end")
    try:
        description = json.loads(bytes(view[8 : 8 + length]))
    except (ValueError, RecursionError) as error:
        raise FormatError(
            "The description in the network's file is not JSON: write it again."
        ) from error
    first = -(-(8 + length) // _ALIGN) * _ALIGN
    reader = _Reader(view[first:-4])
    _require(isinstance(description, dict), "its description")
    shape = reader.sizes(description.get("input"), "its input")
    steps = description.get("steps")
    _require(isinstance(steps, list), "its steps")
    return Network(shape, tuple(reader.step(step) for step in steps))


def _describe(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """A field as the description holds it; arrays are added to `arrays`."""
    if isinstance(value, Matrix):
        name = type(value).__name__
        if name not in _MATRICES:
            raise FormatError(
                f"A network's file cannot hold a {name} matrix: choose one of"
                f" {', '.join(_MATRICES)}."
            )
        fields = dataclasses.fields(value)  # type: ignore[arg-type]
        return {"format": name} | {
            field.name: _describe(getattr(value, field.name), arrays) for field in fields
        }
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": [value.dtype.name, list(value.shape), 0]}
    if isinstance(value, np.dtype):
        return value.name
    return list(value) if isinstance(value, tuple) else value


def _places(steps: list[dict[str, Any]]) -> list[list[Any]]:
    """The `[type, shape, offset]` of every array, in the order they were described."""
    found = []
    for step in steps:
        for value in step.values():
            if isinstance(value, dict):
                inner = value.values() if "format" in value else [value]
                found += [value["array"] for value in inner if isinstance(value, dict)]
    return found


def _gap(length: int) -> bytes:
    return bytes(-length % _ALIGN)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise FormatError(f"The network's file contradicts itself in {what}: write it again.")


class _Reader:
    """Turns the description into steps, each part only if it is what it should be."""

    def __init__(self, arrays: memoryview) -> None:
        self.arrays = arrays

    def step(self, entry: Any) -> NetworkStep:
        _require(isinstance(entry, dict), "a step")
        kind = OPERATIONS.get(str(entry.get("operation")))
        _require(kind is not None, f"an operation named '{entry.get('operation')}'")
        assert kind is not None
        reads = self.sizes(entry.get("reads"), "what a step reads")
        values = {
            field.name: self._setting(entry.get(field.name), field.name, field.type)
            for field in self._fields(kind, entry, extra={"operation", "reads"})
        }
        return NetworkStep(operation=kind(**values), reads=reads)

    def sizes(self, value: Any, what: str) -> tuple[int, ...]:
        """A tuple of numbers from 0 to 2**20."""
        _require(isinstance(value, list), what)
        sane = all(type(number) is int and 0 <= number <= _MOST for number in value)
        _require(sane, what)
        return tuple(value)

    def _fields(
        self, kind: type[Any], entry: Mapping[str, Any], *, extra: set[str]
    ) -> tuple[dataclasses.Field[Any], ...]:
        fields = dataclasses.fields(kind)
        _require(set(entry) == {field.name for field in fields} | extra, kind.__name__)
        return fields

    def _setting(self, value: Any, name: str, kind: Any) -> Any:
        """A field of an operation: its name or its type says which of these it is."""
        if name == "matrix":
            return self._matrix(value)
        if name in ("scale", "bias"):
            if value is None:
                _require("None" in str(kind), f"its {name}")
                return None
            vector = self._array(value)
            _require(vector.dtype == np.float32 and vector.ndim == 1, f"its {name}")
            _require(bool(np.isfinite(vector).all()), f"its {name}")
            return vector
        if kind is bool or kind is float:
            known = type(value) is kind or (kind is float and type(value) is int)
            _require(known and abs(value) <= _MOST, f"its {name}")
            return kind(value)
        pair = self.sizes(value, f"its {name}")
        _require(len(pair) == 2, f"its {name}")
        return pair

    def _matrix(self, entry: Any) -> Matrix:
        kind = _MATRICES.get(str(entry.get("format"))) if isinstance(entry, dict) else None
        _require(kind is not None, "a matrix")
        assert kind is not None
        values: dict[str, Any] = {}
        for field in self._fields(kind, entry, extra={"format"}):
            value = entry[field.name]
            if field.name == "shape":
                _require(isinstance(value, list) and len(value) == 2, "a matrix's shape")
                _require(all(type(side) is int and 0 < side < 1 << 40 for side in value), "a shape")
                values["shape"] = (value[0], value[1])
            elif field.name == "dtype":
                _require(value in DTYPES, "a matrix's type")
                values["dtype"] = np.dtype(value)
            elif field.type in (int, float):
                _require(type(value) in {int, field.type}, f"a matrix's {field.name}")
                values[field.name] = field.type(value)
            else:
                array = self._array(value)
                due = get_args(get_args(field.type)[1])[0]  # NDArray[np.uint32] says uint32
                _require(due is Any or array.dtype == due, f"a matrix's {field.name}")
                values[field.name] = array
        matrix = kind(**values)
        check(matrix)
        return matrix

    def _array(self, entry: Any) -> NDArray[Any]:
        spec = entry.get("array") if isinstance(entry, dict) else None
        _require(isinstance(spec, list) and len(spec) == 3, "an array")
        assert spec is not None
        name, shape, at = spec
        _require(name in DTYPES and isinstance(shape, list), "an array")
        sane = all(type(number) is int and 0 <= number < 1 << 40 for number in (*shape, at))
        _require(sane and 1 <= len(shape) <= 4, "an array")
        dtype = np.dtype(name)
        count = 1
        for size in shape:
            count *= size
        inside = at % _ALIGN == 0 and at + count * dtype.itemsize <= len(self.arrays)
        _require(inside, "an array that goes beyond its end")
        raw = np.frombuffer(self.arrays, dtype.newbyteorder("<"), count, at) if count else ()
        return np.asarray(raw, dtype).reshape(shape)
