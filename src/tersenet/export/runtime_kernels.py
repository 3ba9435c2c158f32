"""What ONNX Runtime really runs: which share of the multiplications are in integers.

A quantised file may still run in float: an operator between quantise and dequantise that has
no integer kernel, a pattern the runtime misses. So the runtime's own optimised graph is read.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import onnx
from onnx import ModelProto

from tersenet.errors import ExportError

__all__ = ["Kernels", "kernels", "optimised"]

INTEGER: Final = {
    "QLinearConv",
    "ConvInteger",
    "QGemm",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}
"""Operators that ONNX Runtime computes on 8-bit integers, summing in 32 bits."""


@final
@dataclass(frozen=True, kw_only=True)
class Kernels:
    """What a runtime made of a file."""

    counts: Mapping[str, int]
    """Operators of the optimised graph, by type."""
    macs: int
    """Multiply-accumulates of one sample through weights."""
    int8_macs: int
    """Of these, those in integer kernels."""

    @property
    def int8_share(self) -> float:
        """Share of the multiply-accumulates that really run in integers."""
        return self.int8_macs / self.macs if self.macs else 0.0


def kernels(path: Path) -> Kernels:
    """Returns what ONNX Runtime runs for the file at `path`.

    Raises:
        ExportError: if the file cannot be loaded.
    """
    try:
        graph = optimised(path).graph
        original = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"ONNX Runtime cannot load {path} ({reason[:200]}): export it again."
        ) from error
    # Float kernels may store weights in another order under another name; integer ones keep
    # the file's tensor, so a weight is computed with in integers exactly if one reads it.
    integer = {name for node in graph.node if node.op_type in INTEGER for name in node.input}
    # Levels of few bits are cast first: the kernel then reads the folded cast.
    integer |= {
        node.input[0]
        for node in original.graph.node
        if node.op_type == "Cast" and node.output[0] in integer
    }
    macs = _macs_by_weight(original)
    return Kernels(
        counts=dict(Counter(node.op_type for node in graph.node)),
        macs=sum(macs.values()),
        int8_macs=sum(count for weight, count in macs.items() if weight in integer),
    )


def optimised(path: Path) -> ModelProto:
    """Returns what ONNX Runtime made of the file: its operators, fused, for this machine."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3  # it warns that the graph is for this machine only
        options.intra_op_num_threads = 1
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(target))


def _macs_by_weight(proto: ModelProto) -> dict[str, int]:
    graph = proto.graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        # One sample: an open dimension counts once.
        sizes[value.name] = [dim.dim_value or 1 for dim in dims]
    source = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type in ("Cast", "DequantizeLinear", "Reshape", "Transpose")
    }
    stored = {tensor.name for tensor in graph.initializer}
    macs = Counter[str]()
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        weight = node.input[1]
        while weight in source and weight not in stored:
            weight = source[weight]
        if weight not in stored:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        # Products for each output: a convolution's are in / groups * kernel.
        each = _numel(sizes[weight][1:])
        if node.op_type in ("Gemm", "MatMul"):
            each = sizes[weight][1] if transposed else sizes[weight][-2]
        macs[weight] += _numel(sizes[node.output[0]]) * each
    return macs


def _numel(sizes: list[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count
