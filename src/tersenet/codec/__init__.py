"""Weights as few bytes: entropy coding, quantisation for it, and the files that hold both.

NumPy and Numba only: a device decodes without PyTorch. `docs/codec.md` is the guide,
`docs/format.md` the byte-level description of the container.
"""

from tersenet.codec.cabac import Payload, decode_levels, encode_levels
from tersenet.codec.steps import dequantise, nearest, rd_levels, slope

__all__ = [
    "Payload",
    "decode_levels",
    "dequantise",
    "encode_levels",
    "nearest",
    "rd_levels",
    "slope",
]
