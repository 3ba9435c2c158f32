"""Averages of levels, written so that every runtime takes them over the same values.

Over levels with a zero point OpenVINO 2026.4 averages its own padding as level 0, which is no zero,
and ONNX Runtime 1.32 divides the last windows of `ceil_mode` by too much. So what is counted is
padded beforehand with the level of zero, and the windows that reach over the end get padding that
is not counted.
"""

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from tersenet.export.rewrites.graph import OnnxGraph, sweep_

__all__ = ["settle_pools_"]


def settle_pools_(proto: ModelProto) -> None:
    """Rewrites each AveragePool of levels in `proto`, in place, as one that runtimes agree on."""
    pools = [node for node in proto.graph.node if node.op_type == "AveragePool"]
    if not pools:
        return
    graph = OnnxGraph(proto)
    for pool in pools:
        source = graph.source(pool.input[0])
        if source is not None and source.op_type == "DequantizeLinear" and graph.grid(source):
            _settle(graph, proto, pool, source)
    sweep_(graph.graph)


def _settle(graph: OnnxGraph, proto: ModelProto, pool: NodeProto, source: NodeProto) -> None:
    options: dict[str, Any] = {
        attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in pool.attribute
    }
    kernel = list(options["kernel_shape"])
    count = len(kernel)
    pads = list(options.get("pads", [0] * 2 * count))
    if options.get("auto_pad", b"NOTSET") != b"NOTSET":
        return
    over = [0] * count
    if options.get("ceil_mode", 0):
        sizes = _sizes(proto, pool.input[0])[2:]
        if len(sizes) != count or not all(sizes):
            return
        strides = options.get("strides", [1] * count)
        shapes = zip(sizes, kernel, strides, pads[:count], pads[count:], strict=True)
        over = [_over(*shape) for shape in shapes]
    counted = bool(options.get("count_include_pad", 0)) and any(pads)
    if not counted and not any(over):
        return
    if counted:
        pool.input[0] = _padded(graph, pool, source, pads)
        pads = [0] * 2 * count
    options |= {"ceil_mode": 0, "count_include_pad": 0}
    ends = zip(pads[count:], over, strict=True)
    options["pads"] = [*pads[:count], *(pad + more for pad, more in ends)]
    pool.CopyFrom(onnx.helper.make_node("AveragePool", pool.input, pool.output, **options))


def _over(size: int, kernel: int, stride: int, begin: int, end: int) -> int:
    """How far the last window of `ceil_mode` reaches over what is padded."""
    whole = size + begin + end
    windows = -((kernel - whole) // stride) + 1
    if (windows - 1) * stride >= size + begin:  # none starts in the padding at the end
        windows -= 1
    return max(0, (windows - 1) * stride + kernel - whole)


def _padded(graph: OnnxGraph, pool: NodeProto, source: NodeProto, pads: list[int]) -> str:
    """The reals of levels that were padded with the level of zero."""
    grid = graph.grid(source)
    assert grid is not None
    half = len(pads) // 2
    sizes = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
    levels, reals = graph.name(pool.input[0]), graph.name(pool.input[0])
    of = [graph.constant(size, pool.input[0]) for size in (sizes, grid[1])]
    graph.insert(
        pool,
        onnx.helper.make_node("Pad", [source.input[0], *of], [levels]),
        onnx.helper.make_node("DequantizeLinear", [levels, *source.input[1:]], [reals]),
    )
    return reals


def _sizes(proto: ModelProto, value: str) -> list[int]:
    """Of a value, 0 where a size is open; nothing where they are not known."""
    known = (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    found = next((own for own in known if own.name == value), None)
    return [] if found is None else [dim.dim_value for dim in found.type.tensor_type.shape.dim]
