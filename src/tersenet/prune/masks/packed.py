"""A masked weight in as many bytes as it keeps weights: one bit says of each if it is stored.

Beyond the four bytes of a kept float32, a bit per weight; n:m patterns and blocks need less to
say where they are, but no more than this.
"""

import struct
from typing import Final

import numpy as np
import torch
from torch import Tensor

from tersenet.errors import FormatError

__all__ = ["pack", "unpack"]

_MAGIC: Final = b"TSMK"


def pack(weight: Tensor) -> bytes:
    """Returns a float32 weight as its shape, the bitmap of what is not zero, and these values.

    Raises:
        FormatError: if the weight is not float32.
    """
    if weight.dtype != torch.float32:
        raise FormatError(f"the weight is {weight.dtype}, not float32: convert it first.")
    values = weight.detach().cpu().contiguous().numpy().reshape(-1)
    kept = values != 0
    head = struct.pack(f"<4sB{weight.ndim}I", _MAGIC, weight.ndim, *weight.shape)
    return head + np.packbits(kept).tobytes() + values[kept].astype("<f4").tobytes()


def unpack(data: bytes) -> Tensor:
    """Returns the weight that `pack` wrote: equal bit by bit but for the sign of zeros.

    Raises:
        FormatError: if the bytes are not such, or truncated.
    """
    try:
        magic, ndim = struct.unpack_from("<4sB", data)
        shape = struct.unpack_from(f"<{ndim}I", data, 5)
    except struct.error as error:
        raise FormatError(f"{len(data)} bytes are no packed weight: they are cut off.") from error
    size, start = int(np.prod(shape, dtype=np.int64)), 5 + 4 * ndim
    end = start + (size + 7) // 8
    if magic != _MAGIC or len(data) < end:
        raise FormatError(f"{len(data)} bytes are no packed weight of shape {list(shape)}.")
    kept = np.unpackbits(np.frombuffer(data, np.uint8, end - start, start))[:size].astype(bool)
    if len(data) != end + 4 * int(kept.sum()):
        raise FormatError(
            f"a packed weight of shape {list(shape)} with {int(kept.sum())} values has "
            f"{end + 4 * int(kept.sum())} bytes, not {len(data)}: it is cut off or too long."
        )
    values = np.zeros(size, np.float32)
    values[kept] = np.frombuffer(data, "<f4", offset=end)
    return torch.from_numpy(values.reshape(shape))
