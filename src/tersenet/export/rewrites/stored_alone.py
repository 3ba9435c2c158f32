"""Weights stored in few bits and multiplied in float, written so that runtimes fold them.

ONNX Runtime keeps a DequantizeLinear of a weight for its integer kernels. Where the layer computes
in float none takes it, so the weight is made floats anew at each inference, and the layer does
without the layout that it has for constant weights: half the speed, and a tenth with scales for
blocks. A cast and a product say the same and are folded when the file is loaded. A table would be
made floats whole for the few rows that are looked up: the levels are looked up instead.
"""

from typing import Final, final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from tersenet.export.rewrites.graph import OnnxGraph, sweep_

__all__ = ["fold_stored_weights_"]

_LAYERS: Final = {"Conv", "ConvTranspose", "Gemm"}
_MOVES: Final = {"Reshape", "Transpose"}
"""What may stand between a weight and its layer."""


def fold_stored_weights_(proto: ModelProto) -> None:
    """Rewrites, in place, the dequantised weights of a file without quantised activations.

    Those of a MatMul without blocks stay: ONNX Runtime has kernels of its own for them.
    """
    kinds = {node.op_type for node in proto.graph.node}
    if "QuantizeLinear" in kinds or "DequantizeLinear" not in kinds:
        return
    graph = OnnxGraph(proto)
    for node in [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]:
        stored = _Stored(graph, node)
        layers = _layers(graph, node.output[0])
        if layers == {"Gather"} and stored.by_row:
            for lookup in graph.readers(node.output[0]):
                graph.insert(lookup, *stored.spelled(lookup.output[0], rows=lookup.input[1]))
                proto.graph.node.remove(lookup)
        elif layers and layers <= (_LAYERS | {"MatMul"} if stored.block else _LAYERS):
            graph.insert(node, *stored.spelled(node.output[0]))
            proto.graph.node.remove(node)
    sweep_(graph.graph)


def _layers(graph: OnnxGraph, value: str) -> set[str]:
    """The operators that read a value, those that only move it passed over."""
    found: set[str] = set()
    for reader in graph.readers(value):
        moved = reader.op_type in _MOVES
        found |= _layers(graph, reader.output[0]) if moved else {reader.op_type}
    return found


@final
class _Stored:
    """A weight as its file has it: levels, scales and levels of zero."""

    def __init__(self, graph: OnnxGraph, node: NodeProto) -> None:
        options = {
            attribute.name: onnx.helper.get_attribute_value(attribute)
            for attribute in node.attribute
        }
        self.graph = graph
        self.levels, self.scale, *self.zero = node.input
        self.axis, self.block = options.get("axis", 1), options.get("block_size", 0)
        source = graph.source(self.levels)  # 4 bits are cast to 8 first
        stored = self.levels if source is None else source.input[0]
        tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == stored)
        self.shape = tuple(tensor.dims)
        lookups = graph.readers(node.output[0])
        whole = all(
            not any(a.name == "axis" and a.i for a in lookup.attribute) for lookup in lookups
        )
        scaled_by_row = bool(self.block) or self.axis == 0 or not graph.constants[self.scale].ndim
        self.by_row = len(self.shape) == 2 and whole and scaled_by_row
        """Whether a lookup may read the levels of its rows alone."""

    def spelled(self, result: str, *, rows: str = "") -> list[NodeProto]:
        """(levels − zero point) · scale, by operators that runtimes fold; of some rows alone."""
        graph, nodes, levels = self.graph, list[NodeProto](), self.levels
        if rows:
            levels = graph.name(levels)
            nodes.append(onnx.helper.make_node("Gather", [self.levels, rows], [levels]))
        # By way of 32 bits: OpenVINO takes a bare cast for weights to keep in 8 bits, multiplies
        # them by inputs that it rounds to 8 bits, too, and without VNNI gives outputs of no rows.
        reals = levels
        for kind in (TensorProto.FLOAT,) if rows else (TensorProto.INT32, TensorProto.FLOAT):
            levels, reals = reals, graph.name(levels)
            nodes.append(onnx.helper.make_node("Cast", [levels], [reals], to=kind))
        if self.zero and graph.constants[self.zero[0]].any():
            centred = graph.name(levels)
            offset = self._operand(self.zero[0], nodes, rows)
            nodes.append(onnx.helper.make_node("Sub", [reals, offset], [centred]))
            reals = centred
        unit = self._operand(self.scale, nodes, rows)
        nodes.append(onnx.helper.make_node("Mul", [reals, unit], [result]))
        return nodes

    def _operand(self, name: str, nodes: list[NodeProto], rows: str) -> str:
        """A scale or a level of zero, so that it meets the levels that it is of."""
        array = self.graph.constants[name].astype(np.float32)
        if array.ndim and not self.block:
            others = [dim for dim in range(len(self.shape)) if dim != self.axis]
            array = np.expand_dims(array, others)
        operand = self.graph.constant(array, name)
        if rows and array.ndim:
            own = self.graph.name(name)
            nodes.append(onnx.helper.make_node("Gather", [operand, rows], [own]))
            operand = own
        return self._each(operand, nodes) if self.block else operand

    def _each(self, operand: str, nodes: list[NodeProto]) -> str:
        """Gives each value the number of its block; the places are counted, not stored."""
        graph = self.graph
        ends = [
            graph.constant(np.array(number, np.int64), operand)
            for number in (0, self.shape[self.axis], 1)
        ]
        length = graph.constant(np.array(self.block, np.int64), operand)
        places, blocks, each = (graph.name(operand) for _ in range(3))
        nodes += [
            onnx.helper.make_node("Range", ends, [places]),
            onnx.helper.make_node("Div", [places, length], [blocks]),
            onnx.helper.make_node("Gather", [operand, blocks], [each], axis=-1),  # blocks lie last
        ]
        return each
