"""Files that run without tersenet, and proof that they compute the same."""

from tersenet.export.formats_file import to_formats
from tersenet.export.kernels import Kernels, kernels
from tersenet.export.onnx_file import to_onnx
from tersenet.export.parity import Parity, check_parity, first_divergence
from tersenet.export.trace import exported, trace

__all__ = [
    "Kernels",
    "Parity",
    "check_parity",
    "exported",
    "first_divergence",
    "kernels",
    "to_formats",
    "to_onnx",
    "trace",
]
