"""Weights stored in few bits and multiplied in float, written so that runtimes fold them.

ONNX Runtime keeps a DequantizeLinear of a weight for its integer kernels. Where the layer computes
in float none takes it, so the weight is made floats anew at each inference, and the layer does
without the layout that it has for constant weights: half the speed, and a tenth with scales for
blocks. A cast and a product say the same and are folded when the file is loaded.
"""

from typing import Final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from tersenet.export.onnx_graph import OnnxGraph

__all__ = ["fold_stored_weights"]

_LAYERS: Final = {"Conv", "ConvTranspose", "Gemm"}
_MOVES: Final = {"Reshape", "Transpose"}
"""What may stand between a weight and its layer."""


def fold_stored_weights(proto: ModelProto) -> None:
    """Rewrites, in place, the dequantised weights of a file without quantised activations.

    Those of a MatMul without blocks stay: ONNX Runtime has kernels of its own for them.
    """
    kinds = {node.op_type for node in proto.graph.node}
    if "QuantizeLinear" in kinds or "DequantizeLinear" not in kinds:
        return
    graph = OnnxGraph(proto)
    for node in [one for one in proto.graph.node if one.op_type == "DequantizeLinear"]:
        options = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        block = options.get("block_size", 0)
        layers = _layers(graph, node.output[0])
        if not layers or not layers <= (_LAYERS | {"MatMul"} if block else _LAYERS):
            continue
        graph.insert(node, *_spelled(graph, node, options.get("axis", 1), block))
        proto.graph.node.remove(node)
    graph.sweep()


def _layers(graph: OnnxGraph, value: str) -> set[str]:
    """The operators that read a value, those that only move it passed over."""
    found: set[str] = set()
    for reader in graph.readers(value):
        moved = reader.op_type in _MOVES
        found |= _layers(graph, reader.output[0]) if moved else {reader.op_type}
    return found


def _spelled(graph: OnnxGraph, node: NodeProto, axis: int, block: int) -> list[NodeProto]:
    """(levels − zero point) · scale, by operators that runtimes fold."""
    levels, scale, *zero = node.input
    shape = _shape(graph, levels)
    reals = graph.name(levels)
    nodes = [onnx.helper.make_node("Cast", [levels], [reals], to=TensorProto.FLOAT)]

    def apply(operator: str, operand: str, result: str) -> str:
        array = graph.constants[operand].astype(np.float32)
        if array.ndim and not block:
            array = np.expand_dims(array, [dim for dim in range(len(shape)) if dim != axis])
        operand = graph.constant(array, operand)
        if block:
            operand = _each(graph, nodes, operand, axis, shape[axis], block)
        nodes.append(onnx.helper.make_node(operator, [reals, operand], [result]))
        return result

    if zero and graph.constants[zero[0]].any():
        reals = apply("Sub", zero[0], graph.name(levels))
    apply("Mul", scale, node.output[0])
    return nodes


def _each(
    graph: OnnxGraph, nodes: list[NodeProto], operand: str, axis: int, size: int, block: int
) -> str:
    """Gives each value the number of its block; the places are counted, not stored."""
    ends = [graph.constant(np.array(one, np.int64), operand) for one in (0, size, 1)]
    length = graph.constant(np.array(block, np.int64), operand)
    places, blocks, each = (graph.name(operand) for _ in range(3))
    nodes += [
        onnx.helper.make_node("Range", ends, [places]),
        onnx.helper.make_node("Div", [places, length], [blocks]),
        onnx.helper.make_node("Gather", [operand, blocks], [each], axis=axis),
    ]
    return each


def _shape(graph: OnnxGraph, levels: str) -> tuple[int, ...]:
    """Of a stored tensor, or of one that a cast makes of it."""
    source = graph.source(levels)
    stored = levels if source is None else source.input[0]
    tensor = next(one for one in graph.graph.initializer if one.name == stored)
    return tuple(tensor.dims)
