"""What a runtime can work out when it loads a file need not be in it.

A weight of 4-bit levels is kept as ONNX INT4, two to a byte, and cast to INT8 before it is
dequantised. Runtimes fold that cast when they load the file and so still find the pattern of
their integer kernels; DequantizeLinear of INT4 itself they compute in float, at each call. Likewise
the scale of a bias is written as the product of the two scales that it is, and a matrix whose
values all fit 16 bits as these with a cast. A clamp before levels that end where it does is left
out: runtimes find that out for all 256 levels alone, and else compute the layer before it in float.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

__all__ = ["derive_bias_scales_", "drop_clamps_", "pack_levels_", "store_halves_"]

_OPSET: Final = 21
"""The first with 4-bit and 16-bit levels, and with scales for blocks."""
_CHANGED: Final = {"GroupNormalization"}
"""Operators that mean something else in that opset than in the one before."""
_WORTH: Final = 64
"""Values from which halving the bytes pays for the node that undoes it."""


def pack_levels_(proto: ModelProto) -> None:
    """Stores 8-bit levels that would fit 4 bits in 4 bits; raises the opset where it must."""
    graph = proto.graph
    if any(node.op_type in _CHANGED for node in graph.node):
        return
    read = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    others = {name for node in graph.node for name in node.input[1:]}
    casts: list[NodeProto] = []
    for tensor in graph.initializer:
        if tensor.name not in read - others:
            continue
        narrow = _narrowed(tensor)
        if narrow is None:
            continue
        wide, kind = tensor.name, tensor.data_type
        narrow.name = f"{wide}.packed"
        tensor.CopyFrom(narrow)
        casts.append(onnx.helper.make_node("Cast", [narrow.name], [wide], to=kind))
    for cast in reversed(casts):
        graph.node.insert(0, cast)
    wide_levels = any(
        tensor.data_type in (TensorProto.UINT16, TensorProto.INT16) for tensor in graph.initializer
    )
    blocks = any(a.name == "block_size" for node in graph.node for a in node.attribute)
    if casts or wide_levels or blocks:
        for opset in proto.opset_import:
            if opset.domain == "":
                opset.version = max(opset.version, _OPSET)
        proto.ir_version = max(proto.ir_version, 10)


def derive_bias_scales_(proto: ModelProto) -> None:
    """Writes the scale of each bias as the product of its layer's input and weight scales."""
    graph = proto.graph
    scales = {
        node.output[0]: (node, node.input[1])
        for node in graph.node
        if node.op_type == "DequantizeLinear"
    }
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products: list[NodeProto] = []
    dropped: set[str] = set()
    for layer in graph.node:
        found = [scales.get(name) for name in layer.input[:3]]
        if layer.op_type not in ("Conv", "Gemm") or len(found) < 3 or None in found:
            continue
        (_, x), (_, w), (bias, b) = (item for item in found if item is not None)
        if not {x, w, b} <= arrays.keys() or arrays[b].size < _WORTH // 4:
            continue
        if not np.array_equal(arrays[x] * arrays[w], arrays[b]):
            continue
        product = f"{b}.{len(products)}"
        products.append(onnx.helper.make_node("Mul", [w, x], [product]))
        bias.input[1] = product
        dropped.add(b)
    dropped -= {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in dropped]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for product in reversed(products):
        graph.node.insert(0, product)


def drop_clamps_(proto: ModelProto) -> None:
    """Removes each Clip whose readers are levels that saturate within its ends."""
    graph = proto.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = defaultdict[str, list[NodeProto]](list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    returned = {output.name for output in graph.output}
    for clip in [node for node in graph.node if node.op_type == "Clip"]:
        ends = [known[name] for name in clip.input[1:] if name in known]
        if len(ends) < 2 or any(end.dtype != np.float32 for end in ends):
            continue
        users, (low, high) = readers[clip.output[0]], ends
        if clip.output[0] in returned or not all(
            _saturates(user, readers, known, low, high) for user in users
        ):
            continue
        for user in users:
            user.input[0] = clip.input[0]
        graph.node.remove(clip)


def _saturates(
    user: NodeProto,
    readers: Mapping[str, list[NodeProto]],
    known: dict[str, np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
) -> bool:
    """Whether QuantizeLinear gives the same levels for what lies beyond `low` and `high`."""
    grid = [known[name] for name in user.input[1:] if name in known]
    if user.op_type != "QuantizeLinear" or len(grid) < 2 or grid[0].ndim:
        return False
    scale, zero = grid
    after = readers[user.output[0]]
    info = np.iinfo(zero.dtype)
    least, most = np.array(info.min), np.array(info.max)
    if len(after) == 1 and after[0].op_type == "Clip" and {*after[0].input[1:]} <= known.keys():
        least, most = (known[name] for name in after[0].input[1:])
    levels = np.rint(np.array([low, high]) / scale) + zero
    return bool(levels[0] <= least and levels[1] >= most)


def store_halves_(proto: ModelProto) -> None:
    """Stores float32 matrices whose values all fit fp16, or else bf16, in 16 bits and a cast.

    The exporter folds casts of small tensors, which would undo what a network holds in half.
    """
    graph = proto.graph
    casts: list[NodeProto] = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        half = _halved(tensor)
        if half is None:
            continue
        wide = tensor.name
        tensor.CopyFrom(half)
        tensor.name = f"{wide}.half"
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [wide], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.node.insert(0, cast)


def _halved(tensor: TensorProto) -> TensorProto | None:
    """The tensor in 16 bits; None where that loses something or is not worth it."""
    values = numpy_helper.to_array(tensor)
    if values.size < _WORTH:
        return None
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.array_equal(half.astype(np.float32), values):
        return numpy_helper.from_array(half)
    bits = np.ascontiguousarray(values).view(np.uint32)
    if (bits & 0xFFFF).any():
        return None
    raw = (bits >> 16).astype(np.uint16).tobytes()  # bf16 is the upper half of float32
    return onnx.helper.make_tensor("half", TensorProto.BFLOAT16, values.shape, raw, raw=True)


def _narrowed(tensor: TensorProto) -> TensorProto | None:
    """The tensor in 4 bits; None where that loses something or is not worth it."""
    if tensor.data_type not in (TensorProto.INT8, TensorProto.UINT8):
        return None
    levels = numpy_helper.to_array(tensor)
    signed = tensor.data_type == TensorProto.INT8
    low, high = (-8, 7) if signed else (0, 15)
    if levels.size < _WORTH or levels.min() < low or levels.max() > high:
        return None
    nibbles = levels.astype(np.uint8).ravel() & 15
    nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
    raw = (nibbles[0::2] | nibbles[1::2] << 4).tobytes()
    kind = TensorProto.INT4 if signed else TensorProto.UINT4
    return onnx.helper.make_tensor(tensor.name, kind, levels.shape, raw, raw=True)
