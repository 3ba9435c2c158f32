"""Weights stored in few bits and multiplied in float, written so that runtimes fold them.

ONNX Runtime keeps a DequantizeLinear of a weight for its integer kernels. Where the layer computes
in float none takes it, so the weight is made floats anew at each inference, and the layer does
without the layout that it has for constant weights: half the speed. A cast and a product say the
same and are folded when the file is loaded.
"""

from typing import Final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

__all__ = ["fold_stored_weights"]

_LAYERS: Final = {"Conv", "ConvTranspose", "Gemm"}
"""MatMul has kernels of its own for weights in few bits."""


def fold_stored_weights(proto: ModelProto) -> None:
    """Rewrites, in place, the dequantised weights of a file without quantised activations."""
    graph = proto.graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return
    arrays = {one.name: one for one in graph.initializer}
    wanted = {node.input[1] for node in graph.node if node.op_type in _LAYERS}
    for node in list(graph.node):
        if node.op_type != "DequantizeLinear" or node.output[0] not in wanted:
            continue
        options = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        operands = [arrays.get(name) for name in node.input[1:]]
        if options.get("block_size", 0) or None in operands:
            continue
        scale, *zero = (numpy_helper.to_array(one) for one in operands if one is not None)
        replacement = _spelled(node, scale, zero, options.get("axis", 1), graph)
        index = list(graph.node).index(node)
        graph.node.remove(node)
        for one in reversed(replacement):
            graph.node.insert(index, one)


def _spelled(
    node: NodeProto,
    scale: np.ndarray,
    zero: list[np.ndarray],
    axis: int,
    graph: onnx.GraphProto,
) -> list[NodeProto]:
    """(levels − zero point) · scale, by operators that runtimes fold."""
    name = node.output[0]
    if scale.ndim:
        rank = _rank(node.input[0], graph)
        shape = [1] * rank
        shape[axis % rank] = -1
        scale = scale.reshape(shape)
        zero = [one.reshape(shape) for one in zero]
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}.unit"))
    real = f"{name}.real"
    nodes = [onnx.helper.make_node("Cast", [node.input[0]], [real], to=TensorProto.FLOAT)]
    if zero and zero[0].any():
        graph.initializer.append(
            numpy_helper.from_array(zero[0].astype(np.float32), f"{name}.origin")
        )
        nodes.append(onnx.helper.make_node("Sub", [real, f"{name}.origin"], [f"{name}.centred"]))
        real = f"{name}.centred"
    nodes.append(onnx.helper.make_node("Mul", [real, f"{name}.unit"], [name]))
    return nodes


def _rank(levels: str, graph: onnx.GraphProto) -> int:
    """Of a stored tensor, or of one that a cast makes of it."""
    source = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    stored = source.get(levels, levels)
    return len(next(one.dims for one in graph.initializer if one.name == stored))
