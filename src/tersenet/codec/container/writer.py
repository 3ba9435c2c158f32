"""Writing a container: from front to back, each tensor with the coder that suits it."""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.container import records
from tersenet.codec.container.heads import TensorEntry, write_head
from tersenet.codec.container.manifests import write_manifest
from tersenet.codec.container.records import END, TENSOR, Writable
from tersenet.codec.container.tensors import Coder, Effort, code_exact, code_levels, difference
from tersenet.codec.elements import DTYPES, numpy_type
from tersenet.codec.levels.quantised import Quantised, check_of, update_order

__all__ = ["Writer"]

CHECK_BYTES: Final = 4
"""What naming the base costs a tensor."""


@final
class Writer:
    """Writes a container from front to back; memory holds one tensor at a time.

    Args:
        file: Where to; it is only appended to.
        effort: As in `encode`.
        repeats: Writes a tensor that equals an earlier one as a reference to it. A reader
            of a stream must then keep what has passed.
        parts: Splits large tensors of levels into so many, for as many threads.
        base: Arrays of the same name and type in it are what is written is relative to, where
            that makes them smaller.
    """

    def __init__(
        self,
        file: Writable,
        *,
        effort: Effort = "normal",
        repeats: bool = True,
        parts: int = 1,
        base: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self._file = file
        self._effort: Effort = effort
        self._repeats = repeats
        self._parts = parts
        self._base = base or {}
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
        self._record(*write_manifest(manifest))

    def write(self, name: str, tensor: NDArray[Any] | Quantised) -> None:
        """Writes one tensor.

        Raises:
            ValueError: The name is taken, or the elements are of an unknown type.
        """
        if name in self._names:
            raise ValueError(f"The container already holds a tensor named '{name}'.")
        entry, payload = self._code(name, tensor)
        index = len(self._names)
        digest = hashlib.sha256(payload).digest()
        key = (replace(entry, name=""), digest, len(payload))
        if self._repeats and (first := self._seen.setdefault(key, index)) != index:
            entry = TensorEntry(
                name=name, dtype=entry.dtype, shape=entry.shape, coder=Coder.SAME, source=first
            )
            payload = b""
        self.copy(entry, payload)

    def copy(self, entry: TensorEntry, payload: bytes | memoryview) -> None:
        """Writes a tensor of another container as it is coded; all before it must be there, too."""
        self._record(TENSOR, write_head(entry, after=self._last), bytes(payload))
        self._names[entry.name] = len(self._names)
        self._last = entry.name

    def close(self) -> None:
        """Writes the last record; the file itself stays open."""
        self._record(END, records.end_head(len(self._names), self._chain), b"")

    def _code(self, name: str, tensor: NDArray[Any] | Quantised) -> tuple[TensorEntry, bytes]:
        if isinstance(tensor, Quantised):
            return self._code_levels(name, tensor)
        array = np.asarray(tensor)
        dtype, shape = array.dtype.name, tuple(map(int, array.shape))
        if dtype not in DTYPES:
            raise ValueError(f"'{name}' holds elements of type {dtype}: take one of {DTYPES}.")
        little = np.ascontiguousarray(array, dtype=numpy_type(dtype)).reshape(shape)
        coded = code_exact(little, effort=self._effort)
        entry = TensorEntry(
            name=name, dtype=dtype, shape=shape, coder=coded.coder, width=coded.width
        )
        base = self._base.get(name)
        if base is not None and _updates(base, dtype, shape):
            change = code_exact(difference(little, base), effort=self._effort)
            if len(change.payload) + CHECK_BYTES < len(coded.payload):
                coded = change
                entry = replace(
                    entry, coder=coded.coder, width=coded.width, relative=True,
                    base_check=check_of(base),
                )  # fmt: skip
        return entry, bytes(coded.payload)

    def _code_levels(self, name: str, tensor: Quantised) -> tuple[TensorEntry, bytes]:
        order = None if tensor.base is None else update_order(tensor.base)
        levels = tensor.levels if order is None else tensor.levels.reshape(-1)[order]
        coded = code_levels(
            levels, dependent=tensor.dependent, effort=self._effort, parts=self._parts
        )
        steps = np.asarray(tensor.step, np.float32)
        book = np.zeros(0) if tensor.codebook is None else np.asarray(tensor.codebook, np.float32)
        entry = TensorEntry(
            name=name,
            dtype=tensor.dtype,
            shape=tuple(map(int, tensor.levels.shape)),
            coder=coded.coder,
            width=coded.width,
            quantised=True,
            dependent=tensor.dependent and coded.coder in (Coder.CABAC, Coder.PARTS),
            steps=tuple(map(float, np.atleast_1d(steps))),
            per_row=steps.ndim == 1,
            codebook=tuple(map(float, book)),
            relative=tensor.base is not None,
            base_check=0 if tensor.base is None else check_of(tensor.base),
        )
        return entry, bytes(coded.payload)

    def _record(self, kind: bytes, head: bytes, payload: bytes) -> None:
        front = records.write_front(kind, head, len(payload))
        check = zlib.crc32(payload, zlib.crc32(front)).to_bytes(4, "little")
        self._chain = zlib.crc32(records.chain_bytes(front, check), self._chain)
        self._file.write(front + payload + check)


def _updates(base: NDArray[Any], dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor can be written as a change to `base`: integers of its bits, added."""
    same = (base.dtype.name, base.shape) == (dtype, shape)
    return same and dtype not in ("bool", "complex128")
