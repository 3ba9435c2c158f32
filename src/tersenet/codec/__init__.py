"""Weights as few bytes: entropy coding, quantisation for it, and the files that hold both.

NumPy and Numba only: a device decodes without PyTorch. `docs/codec.md` is the guide,
`docs/format.md` the byte-level description of the container.
"""

from tersenet.codec.cabac import Payload, decode_levels, encode_levels
from tersenet.codec.codebooks import kmeans, logarithmic, powers_of_two, to_codebook
from tersenet.codec.container import (
    MAX_BYTES,
    Listing,
    Reader,
    Writer,
    decode,
    encode,
    inspect,
    stream,
    with_manifest,
)
from tersenet.codec.feedback import FedBack, inverse_factor, rd_feedback
from tersenet.codec.heads import Entry
from tersenet.codec.quantised import Quantised
from tersenet.codec.steps import dequantise, nearest, rd_levels, short_step, slope
from tersenet.codec.tensors import Coder, Effort

__all__ = [
    "to_codebook",
    "powers_of_two",
    "logarithmic",
    "kmeans",
    "MAX_BYTES",
    "Coder",
    "Effort",
    "Entry",
    "FedBack",
    "Listing",
    "Payload",
    "Quantised",
    "Reader",
    "Writer",
    "decode",
    "decode_levels",
    "dequantise",
    "encode",
    "encode_levels",
    "inspect",
    "inverse_factor",
    "nearest",
    "rd_feedback",
    "rd_levels",
    "short_step",
    "slope",
    "stream",
    "with_manifest",
]
