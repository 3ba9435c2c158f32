"""From the operators of a traced network to the operations of `tersenet.formats`, one rule each."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from tersenet.export.formats.draft import Draft, refusal, stored
from tersenet.export.qops import DEQUANTIZE
from tersenet.export.tracing import BATCH_NORM, operand
from tersenet.formats import Dense
from tersenet.formats.network.operations import (
    AdaptiveAveragePool,
    Add,
    AveragePool,
    ChannelRange,
    Clip,
    Concatenate,
    Convolution,
    Depthwise,
    Flatten,
    Floats,
    HardSigmoid,
    Linear,
    MaxPool,
    Multiply,
    Operation,
    PerChannel,
    Relu,
)

__all__ = ["RULES"]

aten = torch.ops.aten


def _linear(draft: Draft, node: Node) -> int:
    weight = draft.tensor(node, 1)
    if weight is None or weight.ndim != 2:
        raise refusal(node, "its weight is no matrix")
    matrix, scale = stored(weight, 1, draft.choose)
    layer = Linear(matrix=matrix, scale=scale, bias=draft.tensor(node, 2))
    return draft.add(node, layer, draft.read(node))


def _convolution(draft: Draft, node: Node) -> int:
    weight = draft.tensor(node, 1)
    if weight is None:
        raise refusal(node, "it has no weight")
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    stride, dilation = _pair(operand(node, 3) or 1), _pair(operand(node, 5) or 1)
    padding = operand(node, 4) or 0
    if isinstance(padding, str):
        padding = _same(node, kernel, dilation) if padding == "same" else 0
    window = {
        "kernel": kernel,
        "stride": stride,
        "padding": _pair(padding),
        "dilation": dilation,
    }
    rows, bias = weight.reshape(len(weight), -1), draft.tensor(node, 2)
    read, groups = draft.read(node), int(operand(node, 6) or 1)
    if groups == 1:
        return _convolved(draft, node, read, rows, bias, window)
    if weight.shape[1] == 1:
        matrix, scale = stored(rows, 1, draft.choose)
        layer = Depthwise(matrix=matrix, scale=scale, bias=bias, **window)
        return draft.add(node, layer, read)
    # A group is a convolution of its own, on its share of the channels.
    width, height = draft.shapes[read][0] // groups, len(rows) // groups
    parts = []
    for first in range(groups):
        some = draft.add(node, ChannelRange(span=(first * width, (first + 1) * width)), read)
        own = slice(first * height, (first + 1) * height)
        part = None if bias is None else bias[own]
        parts.append(_convolved(draft, node, some, rows[own], part, window))
    return draft.add(node, Concatenate(), *parts)


def _convolved(
    draft: Draft, node: Node, read: int, rows: Floats, bias: Floats | None, window: dict[str, Any]
) -> int:
    """One convolution of all the channels that it reads."""
    # A sketch of the layer, in a format that costs nothing, tells how many patches there are.
    sketch = Convolution(matrix=Dense.encode(rows), bias=bias, **window)
    shape = sketch.shape(draft.shapes[read])
    matrix, scale = stored(rows, shape[1] * shape[2], draft.choose)
    return draft.add(node, replace(sketch, matrix=matrix, scale=scale), read)


def _same(node: Node, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, int]:
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if reach[0] % 2 or reach[1] % 2:
        raise refusal(node, "its padding differs from side to side")
    return reach[0] // 2, reach[1] // 2


def _norm(draft: Draft, node: Node) -> int:
    """Scales by g / sqrt(var + eps) and shifts: in the layer before, where it alone reads that."""
    gain, shift, mean, variance = (_wide(draft.tensor(node, index)) for index in range(1, 5))
    if mean is None or variance is None:
        raise refusal(node, "its statistics are those of the batch")
    scale = (1 if gain is None else gain) / np.sqrt(variance + operand(node, 6))
    bias = (0 if shift is None else shift) - mean * scale
    place, source = draft.read(node), operand(node, 0)
    layer = draft.steps[place - 1].operation if place else None
    alone = isinstance(source, Node) and len(source.users) == 1
    if not (alone and isinstance(layer, Linear | Convolution | Depthwise)):
        return draft.add(node, PerChannel(scale=_single(scale), bias=_single(bias)), place)
    inner = 1 if layer.scale is None else layer.scale.astype(np.float64)
    offset = 0 if layer.bias is None else layer.bias.astype(np.float64)
    folded = replace(layer, scale=_single(inner * scale), bias=_single(offset * scale + bias))
    draft.steps[place - 1] = replace(draft.steps[place - 1], operation=folded)
    return place


def _wide(vector: NDArray[Any] | None) -> NDArray[np.float64] | None:
    return None if vector is None else vector.astype(np.float64)


def _single(vector: Any) -> Floats:
    return np.asarray(vector, np.float32)


def _item(draft: Draft, node: Node) -> int:
    source, index = operand(node, 0), operand(node, 1)
    if source.target is BATCH_NORM:
        if index != 0:
            raise refusal(node, "only a batch norm's first result is known")
        return draft.read(node)
    # A part of what is split by channels: its neighbours' sizes say where it starts.
    sizes = [int(part.shape[1]) for part in source.meta["val"]]
    first = sum(sizes[:index])
    return draft.add(node, ChannelRange(span=(first, first + sizes[index])), draft.read(node))


def _split(draft: Draft, node: Node) -> int:
    """The whole: its parts are taken where they are used."""
    if (operand(node, 2) or 0) != 1:
        raise refusal(node, "only channels can be split")
    return draft.read(node)


def _joined(draft: Draft, node: Node) -> int:
    if (operand(node, 1) or 0) != 1:
        raise refusal(node, "only channels can be joined")
    places = []
    for part in operand(node, 0):
        if part not in draft.place:
            raise refusal(node, "one of its operands is no activation")
        places.append(draft.place[part])
    return draft.add(node, Concatenate(), *places)


def _clip(draft: Draft, node: Node) -> int:
    low, high = operand(node, 1), operand(node, 2)
    if node.target is aten.hardtanh.default:
        low, high = -1 if low is None else low, 1 if high is None else high
    if low is None or high is None:
        raise refusal(node, "it has one bound")
    return draft.add(node, Clip(low=float(low), high=float(high)), draft.read(node))


def _multiply(draft: Draft, node: Node) -> int:
    """The larger first: the other may be a gate."""
    first, second = draft.read(node), draft.read(node, 1)
    if np.prod(draft.shapes[first]) < np.prod(draft.shapes[second]):
        first, second = second, first
    return draft.add(node, Multiply(), first, second)


def _hard_swish(draft: Draft, node: Node) -> int:
    read = draft.read(node)
    return draft.add(node, Multiply(), read, draft.add(node, HardSigmoid(), read))


def _plain(operation: Operation) -> Callable[[Draft, Node], int]:
    """The rule of an operator that has no settings."""
    return lambda draft, node: draft.add(node, operation, draft.read(node))


def _max_pool(draft: Draft, node: Node) -> int:
    if _pair(operand(node, 4) or 1) != (1, 1) or operand(node, 5):
        raise refusal(node, "its windows are dilated or go beyond the edge")
    kernel = _pair(operand(node, 1))
    pool = MaxPool(
        kernel=kernel,
        stride=_pair(operand(node, 2) or kernel),
        padding=_pair(operand(node, 3) or 0),
    )
    return draft.add(node, pool, draft.read(node))


def _average_pool(draft: Draft, node: Node) -> int:
    if operand(node, 4) or operand(node, 6):
        raise refusal(node, "its windows go beyond the edge or have a divisor of their own")
    kernel = _pair(operand(node, 1))
    pool = AveragePool(
        kernel=kernel,
        stride=_pair(operand(node, 2) or kernel),
        padding=_pair(operand(node, 3) or 0),
        count_padding=operand(node, 5) is not False,
    )
    return draft.add(node, pool, draft.read(node))


def _adaptive_pool(draft: Draft, node: Node) -> int:
    read = draft.read(node)
    sizes = operand(node, 1)
    size = tuple(
        own if size is None else int(size)
        for size, own in zip(sizes, draft.shapes[read][1:], strict=True)
    )
    return draft.add(node, AdaptiveAveragePool(size=(size[0], size[1])), read)


def _mean(draft: Draft, node: Node) -> int:
    read = draft.read(node)
    axes = {axis % 4 for axis in operand(node, 1) or ()}
    if len(draft.shapes[read]) != 3 or axes != {2, 3}:
        raise refusal(node, "only means over rows and columns are known")
    pooled = draft.add(node, AdaptiveAveragePool(size=(1, 1)), read)
    return pooled if operand(node, 2) else draft.add(node, Flatten(), pooled)


def _flatten(draft: Draft, node: Node) -> int:
    read = draft.read(node)
    due = tuple(int(size) for size in node.meta["val"].shape[1:])
    if due == draft.shapes[read]:
        return read
    if len(due) != 1:
        raise refusal(node, "only flattening of all but the samples is known")
    return draft.add(node, Flatten(), read)


def _add(draft: Draft, node: Node) -> int:
    if node.kwargs.get("alpha", 1) != 1:
        raise refusal(node, "its second operand is scaled")
    return draft.add(node, Add(), draft.read(node), draft.read(node, 1))


def _pair(value: Any) -> tuple[int, int]:
    sizes = list(value) if isinstance(value, list | tuple) else [value]
    return (int(sizes[0]), int(sizes[-1]))


RULES: Final[dict[Any, Callable[[Draft, Node], int | None]]] = {
    aten.linear.default: _linear,
    aten.conv2d.default: _convolution,
    aten.conv2d.padding: _convolution,
    BATCH_NORM: _norm,
    operator.getitem: _item,
    aten.relu.default: _plain(Relu()),
    aten.relu6.default: _plain(Clip(low=0.0, high=6.0)),
    aten.hardtanh.default: _clip,
    aten.clamp.default: _clip,
    aten.hardsigmoid.default: _plain(HardSigmoid()),
    aten.hardswish.default: _hard_swish,
    aten.add.Tensor: _add,
    aten.mul.Tensor: _multiply,
    aten.cat.default: _joined,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.chunk.default: _split,
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _average_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_pool,
    aten.mean.dim: _mean,
    aten.view.default: _flatten,
    aten.reshape.default: _flatten,
    aten.flatten.using_ints: _flatten,
    aten.dropout.default: lambda draft, node: draft.read(node),
    aten.clone.default: lambda draft, node: draft.read(node),
    aten.sym_size.int: lambda draft, node: None,
    DEQUANTIZE: lambda draft, node: None,
}
"""By operator; None for those that only describe: sizes, and weights that are still integers."""
