#!/usr/bin/env python3
"""Coverage-guided fuzzing of all that decodes a stranger's bytes.

    python -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris numpy numba
    /tmp/fuzz/bin/python scripts/fuzz_codec.py /tmp/found tests/codec/corpus -max_total_time=600

The first byte of an input says which reader gets the rest: the container as it is, the
container with its checksums put right (so that what lies behind them is reached), NNC, an
arithmetic code of a shape that the input names, an ANS block. A reader may answer with a
FormatError or with tensors within the limit; anything else is a crash that libFuzzer keeps.
`tests/codec/test_corpus.py` runs the inputs of the corpus through the same function.
"""

import sys
import zlib
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

READERS: Final = ("container", "forged", "nnc", "levels", "ans")
MAX_BYTES: Final = 1 << 20
BASE: Final = {"w": np.arange(24, dtype=np.float32).reshape(4, 6)}
"""What updates are read against."""


def one_input(data: bytes) -> None:
    """Gives the bytes to a reader; raises only where the reader broke its promise."""
    from tersenet.codec import decode, decode_levels, inspect
    from tersenet.codec.arithmetic import ans
    from tersenet.codec.iso import decode_nnc
    from tersenet.errors import FormatError

    if len(data) < 4:
        return
    reader, rest = READERS[data[0] % len(READERS)], data[1:]
    with suppress(FormatError):
        if reader in ("container", "forged"):
            whole = put_right(rest) if reader == "forged" else rest
            inspect(whole)
            tensors = decode(whole, max_bytes=MAX_BYTES, base=BASE)
            held(sum(one.nbytes for one in tensors.values()))
        elif reader == "nnc":
            held(sum(one.nbytes for one in decode_nnc(rest, max_bytes=MAX_BYTES).values()))
        elif reader == "levels":
            shape = tuple(side % 64 for side in rest[1 : 1 + rest[0] % 3])
            coded = rest[1 + len(shape) :]
            decode_levels(coded, shape, dependent=bool(rest[0] & 128))
        else:
            held(ans.decode_bytes(rest[1:], rest[0]).nbytes)


def held(count: int) -> None:
    """Raises where a reader handed out more than it was allowed."""
    if count > MAX_BYTES:
        raise AssertionError(f"{count} bytes where {MAX_BYTES} were allowed")


def put_right(data: bytes) -> bytes:
    """A container of the records in `data`, each (kind, 2 lengths, head, payload)."""
    from tersenet.codec.container.records import (
        KINDS,
        chain_bytes,
        end_head,
        write_front,
        write_preamble,
    )

    out, chain, tensors, at = write_preamble(), 0, 0, 0
    while at + 4 <= len(data):
        kind, head_bytes = data[at : at + 1], data[at + 1]
        length = int.from_bytes(data[at + 2 : at + 4], "little")
        head = data[at + 4 : at + 4 + head_bytes]
        payload = data[at + 4 + head_bytes : at + 4 + head_bytes + length]
        at += 4 + head_bytes + length
        front = write_front(kind if kind in KINDS else b"E", head, len(payload))
        check = zlib.crc32(front + payload).to_bytes(4, "little")
        out += front + payload + check
        chain = zlib.crc32(chain_bytes(front, check), chain)
        tensors += kind == b"T"
    front = write_front(b"E", end_head(tensors, chain), 0)
    return out + front + zlib.crc32(front).to_bytes(4, "little")


def main() -> None:
    """Runs libFuzzer with its own options."""
    atheris: Any = import_module("atheris")

    # Kernels are compiled from their bytecode, which instrumenting would change.
    folder = Path(__file__).parents[1] / "src" / "tersenet" / "codec"
    kernels = [
        "tersenet.codec." + ".".join(file.relative_to(folder).with_suffix("").parts)
        for file in folder.rglob("*.py")
        if "tersenet.codec.arithmetic.jit" in file.read_text(encoding="utf-8")
    ]
    with atheris.instrument_imports(include=["tersenet.codec"], exclude=kernels):
        import tersenet.codec.iso  # noqa: F401
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
