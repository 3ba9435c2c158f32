"""Runs NNCodec, in the Python that has it: `python nncodec_peer.py JOB IN OUT`.

    compress     IN: .npz of tensors and of its options, `?` before their names, dictionaries
                 as JSON; OUT: a .nnc file
    decompress   IN: a .nnc file; OUT: .npz of tensors
    levels       IN: .npz of integers, and `?dependent`; OUT: .npz of bytes, seconds to
                 encode and seconds to decode of each through its C++ coder alone, and bytes
                 of its unit (name, shape, code) in a file that NNCodec writes of all
    sweep        IN: .npz of tensors and `?settings`, a JSON list of options; OUT: .npz of what
                 it decodes from its own files, `NUMBER/name`, and `?bytes` of each file

Not a test and not imported by one: NNCodec pins NumPy 1, so it lives apart.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np


def timed(levels: np.ndarray, dependent: bool) -> np.ndarray:
    """Bytes and seconds of the C++ coder, with its search for initial states."""
    from nncodec.extensions import deepCABAC  # type: ignore[import-not-found]
    from nncodec.nnc_core.hdsp.hdsp_tool import HDSP_OPTS_OFF  # type: ignore[import-not-found]

    levels = np.ascontiguousarray(levels, np.int32)
    rows = np.array([int(levels.ndim > 1 and not row.any()) for row in levels], np.int32)
    begin = time.process_time()
    encoder = deepCABAC.Encoder()
    encoder.iae_v(8, 0)
    encoder.initCtxModels(11, 1)
    skip = int(rows.any())
    encoder.encodeLayer(levels, int(dependent), 0, 1, 0, skip, rows, *HDSP_OPTS_OFF(), 0, 0)
    data = encoder.finish()
    encoded = time.process_time()
    decoder = deepCABAC.Decoder()
    decoder.setStream(data)
    decoder.iae_v(8)
    decoder.initCtxModels(11)
    back = np.zeros_like(levels)
    decoder.decodeLayer(back, int(dependent), 0, 1, 0, *HDSP_OPTS_OFF(), 0, 0)
    decoder.finish()
    decoded = time.process_time()
    if not np.array_equal(back, levels):
        raise SystemExit("NNCodec does not decode what it encoded.")
    return np.array([len(data), encoded - begin, decoded - encoded])


def units(levels: dict[str, np.ndarray]) -> list[int]:
    """The bytes of each tensor's unit in a file of them all."""
    from nncodec import nnc  # type: ignore[import-not-found]

    every = {name: np.ascontiguousarray(one, np.int32) for name, one in levels.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "a.nnc"))
        data = nnc.compress(every, bitstream_path=path, return_bitstream=True, row_skipping=True)
    view, found = bytes(data), []
    while view:  # a unit begins with its size in 15 or 31 bits, then its kind in 6
        long = view[0] >> 7
        size = int.from_bytes(view[: 2 + 2 * long], "big") & (0x7FFFFFFF if long else 0x7FFF)
        if view[2 + 2 * long] >> 2 == 5:  # a tensor
            found.append(size)
        view = view[size:]
    return found


def sweep(tensors: dict[str, np.ndarray], settings: list[dict]) -> dict[str, np.ndarray]:
    """What it decodes at each of its settings, and the bytes of its files."""
    from nncodec import nnc  # type: ignore[import-not-found]

    found, sizes = {}, []
    for number, options in enumerate(settings):
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "a.nnc"))
            data = nnc.compress(
                dict(tensors), bitstream_path=path, return_bitstream=True, **options
            )
        sizes.append(len(data))
        for name, one in nnc.decompress(bytearray(data)).items():
            found[f"{number}/{name}"] = one
    return {**found, "?bytes": np.array(sizes)}


def main(job: str, source: str, target: str) -> None:
    """Runs one job, silently: NNCodec prints."""
    # NNCodec's data sets want torchvision, whose wheels fail to load without CUDA. Nothing
    # here touches it: any attribute of a mock will do.
    for name in ("", ".transforms", ".transforms.functional", ".models", ".datasets"):
        sys.modules["torchvision" + name] = MagicMock()
    with contextlib.redirect_stdout(io.StringIO()):
        from nncodec import nnc  # type: ignore[import-not-found]

        if job == "decompress":
            np.savez(target, **nnc.decompress(bytearray(Path(source).read_bytes())))
            return
        arrays = dict(np.load(source))
        if job == "levels":
            dependent = arrays.pop("?dependent").item()
            found = {key: timed(levels, dependent) for key, levels in arrays.items()}
            np.savez(
                target,
                **{k: [*found[k], own] for k, own in zip(arrays, units(arrays), strict=True)},
            )
            return
        if job == "sweep":
            settings = json.loads(arrays.pop("?settings").item())
            np.savez(target, **sweep(arrays, settings))
            return
        options = {key[1:]: arrays.pop(key).item() for key in list(arrays) if key[0] == "?"}
        options = {k: json.loads(v) if isinstance(v, str) else v for k, v in options.items()}
        data = nnc.compress(arrays, bitstream_path=target, return_bitstream=True, **options)
        Path(target).write_bytes(bytes(data))


if __name__ == "__main__":
    main(*sys.argv[1:])
