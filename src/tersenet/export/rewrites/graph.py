"""An ONNX graph under change: who computes a value, who reads it, what of it is constant."""

from dataclasses import dataclass
from typing import final

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

__all__ = ["OnnxGraph", "Padding", "sweep_"]


@final
@dataclass(frozen=True, kw_only=True)
class Padding:
    """What a Pad adds at the start and the end of each axis."""

    begin: tuple[int, ...]
    end: tuple[int, ...]
    mode: str
    value: float
    """In reals, or a level."""

    @property
    def axes(self) -> set[int]:
        """Those that change."""
        return {i for i, ends in enumerate(zip(self.begin, self.end, strict=True)) if any(ends)}


@final
class OnnxGraph:
    """A graph under change: who computes, who reads, what is constant."""

    def __init__(self, proto: ModelProto) -> None:
        self.graph = proto.graph
        self.returned = {output.name for output in proto.graph.output}
        self.constants = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer
        }
        for node in proto.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self._count = 0

    def source(self, name: str) -> NodeProto | None:
        """Returns the node that computes a value."""
        return next((node for node in self.graph.node if name in node.output), None)

    def readers(self, name: str) -> list[NodeProto]:
        """Returns the nodes that read a value."""
        return [node for node in self.graph.node if name in node.input]

    def only_reader(self, name: str) -> NodeProto | None:
        """Returns the one node that reads a value, if it is not returned as well."""
        found = self.readers(name)
        return found[0] if len(found) == 1 and name not in self.returned else None

    def name(self, of: str) -> str:
        """Returns a new name, after another."""
        self._count += 1
        return f"{of}:pad{self._count}"  # not a name that the exporter gives

    def constant(self, array: np.ndarray, of: str) -> str:
        """Stores a constant and returns its name."""
        name = self.name(of)
        self.graph.initializer.append(numpy_helper.from_array(array, name))
        self.constants[name] = array
        return name

    def insert(self, before: NodeProto, *nodes: NodeProto) -> None:
        """Puts nodes before one of the graph."""
        index = list(self.graph.node).index(before)
        for node in reversed(nodes):
            self.graph.node.insert(index, node)

    def padding(self, pad: NodeProto) -> Padding | None:
        """Returns what a Pad adds; None where that is only known at run time."""
        operands = [*pad.input, "", "", ""][:4]
        if any(name and name not in self.constants for name in operands[1:]):
            return None
        sizes, value, axes = (self.constants.get(name) for name in operands[1:])
        if sizes is None:
            return None
        half = len(sizes) // 2
        order = list(range(half)) if axes is None else [int(axis) for axis in axes]
        if min(order, default=0) < 0:
            return None
        begin, end = [0] * (max(order, default=-1) + 1), [0] * (max(order, default=-1) + 1)
        for place, axis in enumerate(order):
            begin[axis], end[axis] = int(sizes[place]), int(sizes[place + half])
        return Padding(
            begin=tuple(begin),
            end=tuple(end),
            mode=next(
                (attribute.s.decode() for attribute in pad.attribute if attribute.name == "mode"),
                "constant",
            ),
            value=0.0 if value is None else float(value.reshape(-1)[0]),
        )

    def grid(self, node: NodeProto) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns units per level and the level of zero, where one of each serves all."""
        found = [self.constants.get(name) for name in node.input[1:]]
        scale, zero = found if len(found) == 2 else (None, None)
        return None if scale is None or zero is None or scale.ndim or zero.ndim else (scale, zero)


def sweep_(graph: GraphProto) -> None:
    """Removes nodes and tensors whose values nothing reads, in place."""
    read = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):  # ONNX has them in the order they run
        if read & set(node.output):
            kept.append(node)
            read |= _read_by(node)
    stored = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(stored)


def _read_by(node: NodeProto) -> set[str]:
    """Returns the names that a node reads, also within its branches or its loop."""
    read = set(node.input)
    for attribute in node.attribute:
        for inner in (*attribute.graphs, attribute.g):
            read |= {output.name for output in inner.output}.union(*map(_read_by, inner.node))
    return read
