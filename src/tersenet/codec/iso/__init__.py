"""Interchange: files of ISO/IEC 15938-17 (NNC) as NNCodec 2.1.3 writes and reads them.

    data = encode_nnc({"fc.weight": Quantised(levels=..., step=step_of(-20)), "n": counts})
    weights = decode_nnc(data)

Covered: start, model parameter set, topology (read and passed over), and tensors as FLOAT
(uniform, dependent, or by a codebook), INT, RAW and BLOCK, with skipped rows, signalled initial
states, and scans in blocks with entry points, in profile 1. Not covered, and refused by name:
temporal contexts, layer parameter sets, decomposed tensors, profile 0.

The standard itself was not at hand: this follows what the reference software does, and
`docs/codec.md` says how that was checked, and what about patents.
"""

from tersenet.codec.iso.reader import decode_nnc
from tersenet.codec.iso.units import LayerUnit, nearest_qp, step_of
from tersenet.codec.iso.writer import encode_nnc

__all__ = ["LayerUnit", "decode_nnc", "encode_nnc", "nearest_qp", "step_of"]
