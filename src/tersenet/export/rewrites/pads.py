"""Padding written so that every runtime computes it alike.

OpenVINO 2026.4 moves what follows from a level's zero point past a Pad along a single axis and then
pads with the wrong value, or cannot open the file at all; ONNX Runtime is exact either way. So
zeros before a convolution become its own `pads`, and any other Pad that is quantised afterwards
pads the levels themselves, with the level of its value: in both forms there is nothing to move.
Padding that repeats the other end, which OpenVINO does not read, is written as a concatenation.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from tersenet.export.rewrites.graph import OnnxGraph, Padding, sweep_

__all__ = ["settle_pads_"]

_BYTES: Final = {np.dtype(np.uint8), np.dtype(np.int8)}
"""The levels that ONNX Runtime pads."""


def settle_pads_(proto: ModelProto) -> None:
    """Rewrites each Pad of `proto`, in place, as a form that runtimes agree on."""
    pads = [node for node in proto.graph.node if node.op_type == "Pad"]
    if not pads:
        return
    file = OnnxGraph(proto)
    for pad in pads:
        _pad_levels(file, pad)
    # A pad of a pad is folded one after the other.
    while any(_fold(file, conv) for conv in list(proto.graph.node) if conv.op_type == "Conv"):
        pass
    sweep_(file.graph)
    for pad in [node for node in proto.graph.node if node.op_type == "Pad"]:
        _wrap(file, pad)


def _pad_levels(file: OnnxGraph, pad: NodeProto) -> None:
    """Turns a Pad and the quantisation that reads it around, which changes no level."""
    padding, quantise = file.padding(pad), file.only_reader(pad.output[0])
    if padding is None or quantise is None or quantise.op_type != "QuantizeLinear":
        return
    grid = file.grid(quantise)
    if padding.mode not in ("constant", "wrap") or grid is None or grid[1].dtype not in _BYTES:
        return
    scale, zero = grid
    info = np.iinfo(zero.dtype)
    level = np.clip(np.rint(np.float32(padding.value) / scale) + zero, info.min, info.max)
    last, clip = quantise, file.only_reader(quantise.output[0])
    ends = None
    if clip is not None and clip.op_type == "Clip":
        ends = [file.constants.get(name) for name in clip.input[1:]]
        if len(ends) != 2 or ends[0] is None or ends[1] is None:
            return
        last, level = clip, np.clip(level, ends[0], ends[1])
    levels = _levels_before(file, pad, quantise, clip if last is clip else None)
    value = file.constant(np.array(level, zero.dtype), pad.output[0])
    padded = onnx.helper.make_node(
        "Pad", [levels, pad.input[1], value, *pad.input[3:]], [last.output[0]], mode=padding.mode
    )
    file.insert(last, padded)
    for node in {id(node): node for node in (quantise, last)}.values():
        file.graph.node.remove(node)
    file.graph.node.remove(pad)


def _levels_before(
    file: OnnxGraph, pad: NodeProto, quantise: NodeProto, clip: NodeProto | None
) -> str:
    """The name of the levels of what a Pad reads: those that it comes from, or quantised here."""
    source, wanted = file.source(pad.input[0]), file.grid(quantise)
    if source is not None and source.op_type == "DequantizeLinear" and wanted is not None:
        known = file.grid(source)
        if known is not None and known[1].dtype == wanted[1].dtype and known == wanted:
            return source.input[0]
    levels = file.name(quantise.output[0])
    nodes = [onnx.helper.make_node("QuantizeLinear", [pad.input[0], *quantise.input[1:]], [levels])]
    if clip is not None:
        whole, levels = levels, file.name(clip.output[0])
        nodes.append(onnx.helper.make_node("Clip", [whole, *clip.input[1:]], [levels]))
    file.insert(pad, *nodes)
    return levels


def _fold(file: OnnxGraph, conv: NodeProto) -> bool:
    """Makes a Pad with zeros before a convolution the convolution's own; whether there was one."""
    if any(
        attribute.name == "auto_pad" and attribute.s not in (b"", b"NOTSET")
        for attribute in conv.attribute
    ):
        return False
    pad = source = file.source(conv.input[0])
    zero = 0.0
    if source is not None and source.op_type == "DequantizeLinear":
        grid, pad = file.grid(source), file.source(source.input[0])
        if grid is None:
            return False
        zero = float(grid[1])
    padding = file.padding(pad) if pad is not None and pad.op_type == "Pad" else None
    if pad is None or padding is None or padding.mode != "constant" or padding.value != zero:
        return False
    grows = [max(0, size) for size in (*padding.begin, *padding.end)]
    if padding.axes & {0, 1} or not any(grows):
        return False
    _add_pads(conv, padding)
    data = pad.input[0]
    if min(*padding.begin, *padding.end) < 0:
        data = _cropped(file, pad, padding)
    if pad is not source:
        assert source is not None
        real = file.name(source.output[0])
        dequantise = onnx.helper.make_node("DequantizeLinear", [data, *source.input[1:]], [real])
        file.insert(source, dequantise)
        data = real
    conv.input[0] = data
    return True


def _add_pads(conv: NodeProto, padding: Padding) -> None:
    """Adds to a convolution's own pads what grows."""
    spatial = len(padding.begin) - 2
    added = [max(0, width) for width in (*padding.begin[2:], *padding.end[2:])]
    attribute = next((attribute for attribute in conv.attribute if attribute.name == "pads"), None)
    if attribute is None:
        conv.attribute.append(onnx.helper.make_attribute("pads", added))
        return
    # A Pad whose last axes stay may name fewer than the convolution has.
    own = list(attribute.ints)
    half = len(own) // 2
    for place in range(spatial):
        own[place] += added[place]
        own[half + place] += added[spatial + place]
    attribute.ints[:] = own


def _cropped(file: OnnxGraph, pad: NodeProto, padding: Padding) -> str:
    """What is left of a Pad's input where it takes away."""
    sizes = np.array([min(0, width) for width in (*padding.begin, *padding.end)], np.int64)
    crop = file.name(pad.output[0])
    inputs = [pad.input[0], file.constant(sizes, pad.output[0]), *pad.input[2:3]]
    file.insert(pad, onnx.helper.make_node("Pad", inputs, [crop]))
    return crop


def _wrap(file: OnnxGraph, pad: NodeProto) -> None:
    """Writes a Pad that repeats the other end as the concatenation that it is."""
    padding = file.padding(pad)
    if padding is None or padding.mode != "wrap" or min(*padding.begin, *padding.end, 0) < 0:
        return
    value, axes = pad.input[0], sorted(padding.axes)
    for axis in axes:
        whole = pad.output[0] if axis == axes[-1] else file.name(pad.output[0])
        nodes = list(_around(file, value, padding.begin[axis], padding.end[axis], axis))
        parts = [node.output[0] for node in nodes]
        parts.insert(int(padding.begin[axis] > 0), value)
        nodes.append(onnx.helper.make_node("Concat", parts, [whole], axis=axis))
        file.insert(pad, *nodes)
        value = whole
    if axes:
        file.graph.node.remove(pad)


def _around(file: OnnxGraph, value: str, begin: int, end: int, axis: int) -> Iterator[NodeProto]:
    """The slices that go before and after a value, those that are not empty."""
    last = np.iinfo(np.int64).max
    ends: Sequence[tuple[int, int]] = [(-begin, last)] * (begin > 0) + [(0, end)] * (end > 0)
    for start, stop in ends:
        limits = [
            file.constant(np.array([number], np.int64), value) for number in (start, stop, axis)
        ]
        yield onnx.helper.make_node("Slice", [value, *limits], [file.name(value)])
