"""A network of matrix formats while it is put together, and how its weights are held.

Layers keep the values their weights were rounded to: a matrix holds these, or small integers
where every channel has a grid of its own; a factor per channel takes the grid's step and the
batch norm that follows. Folding a norm into weights would give each channel values of its own.
"""

import operator
from typing import Any, Final, Literal, final

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from tersenet.errors import ExportError, FormatError
from tersenet.export.qops import DEQUANTIZE
from tersenet.export.trace import operand
from tersenet.formats import Dense, Levels, Matrix, best_format, predicted_us
from tersenet.formats.choice import FAST
from tersenet.formats.fast.base import FEW
from tersenet.formats.network.operations import Floats, Operation, Shape
from tersenet.formats.network.running import Network, NetworkStep

__all__ = ["Choose", "Draft", "grid_by_channel", "refusal", "stored"]

Choose = Literal["smallest", "fastest", "dense"]
_MOST_STEPS: Final = 127
_NEAR: Final = 1.1
"""Formats that take up to so many times the fewest bytes may be chosen for their speed."""


@final
class Draft:
    """The steps so far, the shape of each result, and which node's value lies where."""

    def __init__(self, module: GraphModule, input_shape: Shape, choose: Choose) -> None:
        self.module = module
        self.choose: Choose = choose
        self.shapes = [input_shape]
        self.steps: list[NetworkStep] = []
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
        self.steps.append(NetworkStep(operation=operation, reads=reads))
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
    counts = np.arange(1, _MOST_STEPS + 1)
    for row, values in enumerate(weight.astype(np.float64)):
        sizes = np.unique(np.abs(values))
        largest = sizes[-1]
        if largest == 0:
            continue
        if len(sizes) > _MOST_STEPS + 1:
            return None
        # How many steps the largest value is: a row of few values need not hold neighbours.
        places = sizes / largest * counts[:, None]
        off = np.abs(np.rint(places) - places).max(axis=1) / counts
        fits = np.flatnonzero(off <= 2.0**-22)
        if not len(fits):
            return None
        steps[row] = step = largest / counts[fits[0]]
        levels[row] = np.rint(values / step)
    return levels, steps


def stored(weight: Floats, batch: int, choose: Choose) -> tuple[Matrix, Floats | None]:
    """The matrix of a layer in the format asked for, and the factors of its rows."""
    if choose == "dense":
        return Dense.encode(weight), None
    levels, scale = Levels.of(weight), None
    if len(levels.values) > FEW and (grid := grid_by_channel(weight)) is not None:
        coarse = Levels.of(grid[0])
        if len(coarse.values) < len(levels.values):
            levels, scale = coarse, grid[1]
    if choose == "fastest":
        matrix = best_format(levels, batch).matrix
    else:
        able = predicted_us(levels, batch)
        kinds = [kind for kind in FAST if kind.__name__ in able]
        encoded = [kind.encode(levels) for kind in kinds]
        held: tuple[Matrix, ...] = (Dense.encode(weight), *encoded)
        limit = _NEAR * min(one.memory_bytes for one in held)
        near = [one for one in held if one.memory_bytes <= limit]
        matrix = min(near, key=lambda one: able[type(one).__name__])
    if isinstance(matrix, Dense):
        return Dense.encode(weight), None
    return matrix, scale
