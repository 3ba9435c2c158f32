"""Layers that were left in float stay so in the runtime, too.

ONNX Runtime lays the float weight of a layer that reads levels on one 8-bit grid per tensor when it
loads the file, unasked and unannounced (its WeightBiasQuantization, seen in 1.32). It passes over a
layer whose bias is no plain tensor, so such a layer is given 32-bit levels of its own as a bias,
2**-30 of the largest apart, which is less than float32 itself rounds a bias by.
"""

from typing import Final

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

__all__ = ["keep_float_"]

_TAKEN: Final = {"Conv", "ConvTranspose", "Gemm"}
"""Operators whose weights would be quantised."""
_LEVELS: Final = 2**30


def keep_float_(proto: ModelProto) -> None:
    """Gives each float layer that reads levels a bias of 32-bit levels."""
    graph = proto.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {name: node for node in graph.node for name in node.output}
    for index, layer in reversed(list(enumerate(graph.node))):
        if layer.op_type not in _TAKEN or layer.input[1] not in stored:
            continue
        source = nodes.get(layer.input[0])
        if source is None or source.op_type != "DequantizeLinear":
            continue
        given = layer.input[2] if len(layer.input) > 2 else ""
        if given and given not in stored:
            continue
        bias = numpy_helper.to_array(stored[given]) if given else _zeros(layer, stored)
        name = f"{layer.output[0]}:bias"  # not a name that a parameter has
        scale = np.float32(np.abs(bias).max() / _LEVELS or 1.0)
        levels = np.round(bias.astype(np.float64) / scale).astype(np.int32)
        graph.initializer.append(numpy_helper.from_array(levels, f"{name}.levels"))
        graph.initializer.append(numpy_helper.from_array(np.array(scale), f"{name}.scale"))
        parts = [f"{name}.levels", f"{name}.scale"]
        graph.node.insert(index, onnx.helper.make_node("DequantizeLinear", parts, [name]))
        layer_inputs = [*layer.input[:2], name]
        del graph.node[index + 1].input[:]
        graph.node[index + 1].input.extend(layer_inputs)
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _zeros(layer: onnx.NodeProto, stored: dict[str, TensorProto]) -> np.ndarray:
    options = {attribute.name: attribute.i for attribute in layer.attribute}
    sizes = stored[layer.input[1]].dims
    if layer.op_type == "ConvTranspose":
        return np.zeros(sizes[1] * options.get("group", 1), np.float32)
    transposed = layer.op_type == "Conv" or options.get("transB", 0)
    return np.zeros(sizes[0] if transposed else sizes[1], np.float32)
