"""Files that run without tersenet, and proof that they compute the same.

In flows a network with example inputs. `tracing` makes a graph of it; `onnx_file` has PyTorch's
exporter translate that and `rewrites` change what it wrote; `formats` writes files of compressed
matrices, `pt2e` graphs for `torch.compile`. `parity` and `layer_parity` compare a file with its
network, as a whole and layer by layer, and `runtime_kernels` reads what a runtime made of it.
"""

from typing import TYPE_CHECKING, Any

from tersenet.export.float_layers import alike, in_float
from tersenet.export.layer_parity import LayerParity, compare_layers
from tersenet.export.onnx_file import Converted, to_onnx
from tersenet.export.parity import Parity, check_parity, compare_outputs
from tersenet.export.pt2e import compiled, to_pt2e
from tersenet.export.runtime_kernels import Kernels, kernels
from tersenet.export.tracing import exported, trace

if TYPE_CHECKING:
    from tersenet.export.formats.file import to_formats

__all__ = [
    "Converted",
    "Kernels",
    "LayerParity",
    "Parity",
    "alike",
    "check_parity",
    "compare_layers",
    "compare_outputs",
    "compiled",
    "exported",
    "in_float",
    "kernels",
    "to_formats",
    "to_onnx",
    "to_pt2e",
    "trace",
]


def __getattr__(name: str) -> Any:
    # The matrix formats compile their kernels with Numba, which no other export needs.
    if name != "to_formats":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tersenet.export.formats.file import to_formats

    return to_formats
