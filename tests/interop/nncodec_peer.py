"""Runs NNCodec, in the Python that has it: `python nncodec_peer.py JOB IN OUT`.

    compress     IN: .npz of tensors and the option `use_dq`; OUT: a .nnc file
    decompress   IN: a .nnc file; OUT: .npz of tensors

Not a test and not imported by one: NNCodec pins NumPy 1, so it lives apart.
"""

import contextlib
import io
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np


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
        options = {key[1:]: arrays.pop(key).item() for key in list(arrays) if key[0] == "?"}
        data = nnc.compress(arrays, bitstream_path=target, return_bitstream=True, **options)
        Path(target).write_bytes(bytes(data))


if __name__ == "__main__":
    main(*sys.argv[1:])
