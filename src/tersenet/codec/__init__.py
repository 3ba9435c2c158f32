"""Weights as few bytes: entropy coding, quantisation for it, and the files that hold both.

NumPy and Numba only: a device decodes without PyTorch. `docs/codec.md` is the guide,
`docs/format.md` the byte-level description of the container. A tensor goes down these rooms when
it is coded, and up again when it is read:

    levels       floats to integers: nearest, worth their bits, fed back, or a codebook's
    arithmetic   integers to bits: contexts and the arithmetic coder of ISO/IEC 15938-17; ANS
    container    named tensors and a manifest to one checked file, read whole, streamed or by name
    iso          the same tensors to and from files of that standard

`elements` names the types that a tensor's elements may have.
"""

from tersenet.codec.arithmetic.cabac import Payload, decode_levels, encode_levels
from tersenet.codec.container.heads import TensorEntry
from tersenet.codec.container.reader import MAX_BYTES, Listing, Reader
from tersenet.codec.container.tensors import Coder, Effort
from tersenet.codec.container.whole import decode, encode, inspect, stream, with_manifest
from tersenet.codec.container.writer import Writer
from tersenet.codec.levels.codebooks import kmeans, logarithmic, powers_of_two, to_codebook
from tersenet.codec.levels.feedback import FeedbackLevels, inverse_factor, rd_feedback
from tersenet.codec.levels.quantised import Quantised
from tersenet.codec.levels.steps import dequantise, nearest, rd_levels, short_step, slope

__all__ = [
    "MAX_BYTES",
    "Coder",
    "Effort",
    "TensorEntry",
    "FeedbackLevels",
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
    "kmeans",
    "logarithmic",
    "nearest",
    "powers_of_two",
    "rd_feedback",
    "rd_levels",
    "short_step",
    "slope",
    "stream",
    "to_codebook",
    "with_manifest",
]
