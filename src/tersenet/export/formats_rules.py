"""From the operators of a traced network to the operations of `tersenet.formats`, one rule each.

Layers keep the values their weights were rounded to: a matrix holds these, or small integers
where every channel has a grid of its own; a factor per channel takes the grid's step and the
batch norm that follows. Folding a norm into weights would give each channel values of its own.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from tersenet.errors import ExportError, FormatError
from tersenet.export.qops import DEQUANTIZE
from tersenet.export.trace import BATCH_NORM, operand
from tersenet.formats import Dense, Levels, Matrix, best_format, predicted_us
from tersenet.formats.choice import FAST
from tersenet.formats.network import Network, Step
from tersenet.formats.operations import (
    AdaptiveAveragePool,
    Add,
    AveragePool,
    Convolution,
    Flatten,
    Linear,
    MaxPool,
    Operation,
    PerChannel,
    Relu,
    Shape,
)

__all__ = ["RULES", "Choose", "Draft", "grid_by_channel"]

Choose = Literal["smallest", "fastest", "dense"]
Floats = NDArray[np.float32]

aten = torch.ops.aten


@final
class Draft:
    """The steps so far, the shape of each result, and which node's value lies where."""

    def __init__(self, module: GraphModule, input_shape: Shape, choose: Choose) -> None:
        self.module = module
        self.choose: Choose = choose
        self.shapes = [input_shape]
        self.steps: list[Step] = []
        self.place: dict[Node, int] = {}

    def network(self) -> Network:
        """Returns the finished network."""
        return Network(self.shapes[0], tuple(self.steps))

    def add(self, node: Node, operation: Operation, *reads: int) -> int:
        """Adds a step and returns the place of its result."""
        try:
            shape = operation.shape(*(self.shapes[place] for place in reads))
        except FormatError as error:
            raise refusal(node, str(error).partition(":")[0]) from error
        self.steps.append(Step(operation=operation, reads=reads))
        self.shapes.append(shape)
        return len(self.steps)

    def read(self, node: Node, index: int = 0) -> int:
        """Returns the place of an operand that is computed."""
        source = operand(node, index)
        if not isinstance(source, Node) or source not in self.place:
            raise refusal(node, f"its operand {index} is no activation")
        return self.place[source]

    def tensor(self, node: Node, index: int) -> NDArray[Any] | None:
        """Returns a parameter that the node reads, or None where there is none."""
        source = operand(node, index)
        if source is None:
            return None
        if isinstance(source, Node) and source.target is DEQUANTIZE:
            return self._dequantised(source)
        if not isinstance(source, Node) or source.op != "get_attr":
            raise refusal(node, f"its operand {index} is computed")
        found = operator.attrgetter(str(source.target))(self.module)
        return found.detach().numpy()

    def _dequantised(self, source: Node) -> NDArray[Any]:
        levels, scale, zero_point = (self.tensor(source, index) for index in range(3))
        axis = operand(source, 3)
        if levels is None or scale is None:
            raise refusal(source, "it has no levels")
        shape = [1] * levels.ndim
        if scale.size > 1:
            shape[axis] = scale.size
        zero = 0 if zero_point is None else zero_point.astype(np.float32).reshape(shape)
        return (levels.astype(np.float32) - zero) * scale.reshape(shape)


def refusal(node: Node, why: str) -> ExportError:
    """The error for an operator that is known but not in this form."""
    return ExportError(
        f"'{node.name}' ({node.target}) cannot run on the matrix formats, {why}: change it, or"
        " write ONNX."
    )


def grid_by_channel(weight: Floats) -> tuple[NDArray[np.int8], Floats] | None:
    """Integers q and steps s with weight = s · q row by row, to float32's precision.

    None where some row is not on a grid through zero of at most 127 steps on either side.
    """
    levels = np.zeros(weight.shape, np.int8)
    steps = np.ones(len(weight), np.float32)
    for row, values in enumerate(weight.astype(np.float64)):
        sizes = np.unique(np.append(np.abs(values), 0))
        if len(sizes) == 1:
            continue
        last = np.rint(sizes[-1] / np.diff(sizes).min())
        # The smallest gap is of two rounded values; the largest value knows the step better.
        step = sizes[-1] / last
        places = np.rint(values / step)
        if last > 127 or np.abs(places * step - values).max() > 2.0**-22 * sizes[-1]:
            return None
        levels[row], steps[row] = places, step
    return levels, steps


def stored(weight: Floats, batch: int, choose: Choose) -> tuple[Matrix, Floats | None]:
    """The matrix of a layer in the format asked for, and the factors of its rows."""
    if choose == "dense":
        return Dense.encode(weight), None
    levels, scale = Levels.of(weight), None
    if len(levels.values) > FEW and (grid := grid_by_channel(weight)) is not None:
        coarse = Levels.of(grid[0])
        if len(coarse.values) <= FEW:
            levels, scale = coarse, grid[1]
    if choose == "fastest":
        matrix = best_format(levels, batch).matrix
    else:
        able = predicted_us(levels, batch)
        kinds = [kind for kind in FAST if kind.__name__ in able]
        encoded = [kind.encode(levels) for kind in kinds]
        matrix = min((Dense.encode(weight), *encoded), key=lambda one: one.memory_bytes)
    if isinstance(matrix, Dense):
        return Dense.encode(weight), None
    return matrix, scale


FEW: Final = 32
"""Values that the fast formats hold."""


def _linear(draft: Draft, node: Node) -> int:
    weight = draft.tensor(node, 1)
    if weight is None or weight.ndim != 2:
        raise refusal(node, "its weight is no matrix")
    matrix, scale = stored(weight, 1, draft.choose)
    layer = Linear(matrix=matrix, scale=scale, bias=draft.tensor(node, 2))
    return draft.add(node, layer, draft.read(node))


def _convolution(draft: Draft, node: Node) -> int:
    weight = draft.tensor(node, 1)
    if weight is None or (operand(node, 6) or 1) != 1:
        raise refusal(node, "its channels are in groups")
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    stride, dilation = _pair(operand(node, 3) or 1), _pair(operand(node, 5) or 1)
    padding = operand(node, 4) or 0
    if isinstance(padding, str):
        padding = _same(node, kernel, dilation) if padding == "same" else 0
    rows = weight.reshape(len(weight), -1)
    read = draft.read(node)
    # A sketch of the layer, in a format that costs nothing, tells how many patches there are.
    sketch = Convolution(
        matrix=Dense.encode(rows),
        kernel=kernel,
        stride=stride,
        padding=_pair(padding),
        dilation=dilation,
        bias=draft.tensor(node, 2),
    )
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
    if not (alone and isinstance(layer, Linear | Convolution)):
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


def _first(draft: Draft, node: Node) -> int:
    if operand(node, 1) != 0:
        raise refusal(node, "only a batch norm's first result is known")
    return draft.read(node)


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
        own if one is None else int(one)
        for one, own in zip(sizes, draft.shapes[read][1:], strict=True)
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
    operator.getitem: _first,
    aten.relu.default: lambda draft, node: draft.add(node, Relu(), draft.read(node)),
    aten.add.Tensor: _add,
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
