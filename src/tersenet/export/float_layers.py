"""A quantised file with some of its layers in float again: to ask a clock whether they pay.

Edited in the file, not exported anew, so that a variant for each kind of layer costs nothing. What
such a layer reads is dequantised and what it returns quantised, as its neighbours want it.
"""

from collections.abc import Collection
from typing import Final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from tersenet.export.kept_float import keep_float_
from tersenet.export.layer_parity import layer_of
from tersenet.export.onnx_file import Converted
from tersenet.export.rewrites.graph import sweep_

__all__ = ["alike", "in_float"]

_LAYERS: Final = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def alike(converted: Converted) -> list[dict[str, str]]:
    """Returns the quantised layers of a file, those of one operator, shape and stride together.

    By the name of what it returns in the file, the layer's name in the network.
    """
    traced = {node.name: node for node in converted.program.module(check_guards=False).graph.nodes}
    file = _File(converted.proto)
    found: dict[tuple[object, ...], dict[str, str]] = {}
    for node in converted.proto.graph.node:
        own = traced.get(converted.origin.get(node.output[0], ""))
        weight = file.reals(node.input[1]) if node.op_type in _LAYERS else None
        if own is None or weight is None:
            continue
        options = tuple(sorted(attribute.SerializeToString() for attribute in node.attribute))
        group = found.setdefault((node.op_type, weight.shape, options), {})
        group[node.output[0]] = layer_of(own)
    return list(found.values())


def in_float(proto: ModelProto, layers: Collection[str]) -> ModelProto:
    """Returns the file with the layers that return `layers` in float."""
    own = ModelProto()
    own.CopyFrom(proto)
    file = _File(own)
    for node in own.graph.node:
        if node.output[0] not in layers:
            continue
        name = node.input[1]
        reals = file.reals(name)
        if reals is not None:
            node.input[1] = f"{name}.real"
            own.graph.initializer.append(
                numpy_helper.from_array(reals.astype(np.float32), f"{name}.real")
            )
    keep_float_(own)
    sweep_(own.graph)
    onnx.checker.check_model(own)
    return own


class _File:
    """The constants of a file, and what it computes from them when it is loaded."""

    def __init__(self, proto: ModelProto) -> None:
        self.stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.nodes = {name: node for node in proto.graph.node for name in node.output}

    def reals(self, name: str) -> np.ndarray | None:
        """What the levels behind a value stand for; None where there are none, or groups."""
        node = self.nodes.get(name)
        if node is None or node.op_type != "DequantizeLinear" or _option(node, "block_size", 0):
            return None
        levels, scale = self._constant(node.input[0]), self._constant(node.input[1])
        if levels is None or scale is None:
            return None
        zero = self._constant(node.input[2]) if len(node.input) > 2 else np.zeros(())
        assert zero is not None
        shape = [1] * levels.ndim
        if scale.ndim:
            shape[_option(node, "axis", 1)] = -1
        return (levels - zero.reshape(shape if zero.ndim else ())) * scale.reshape(
            shape if scale.ndim else ()
        )

    def _constant(self, name: str) -> np.ndarray | None:
        if name in self.stored:
            return numpy_helper.to_array(self.stored[name]).astype(np.float64)
        node = self.nodes.get(name)
        if node is None or node.op_type not in ("Cast", "Mul", "Constant"):
            return None
        if node.op_type == "Constant":
            (value,) = (attribute.t for attribute in node.attribute if attribute.name == "value")
            return numpy_helper.to_array(value).astype(np.float64)
        parts = [self._constant(value) for value in node.input]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return np.prod(np.broadcast_arrays(*known), axis=0)  # of a cast, the one part


def _option(node: NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
