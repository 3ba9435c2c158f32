"""What a compressed network computes, in NumPy: layers on any format, and what lies between."""

from dataclasses import dataclass
from typing import Final, final

import numpy as np

from tersenet.formats.matrix import Matrix
from tersenet.formats.network.convolutions import Convolution, Depthwise
from tersenet.formats.network.operation import (
    Elementwise,
    Floats,
    Operation,
    Pair,
    ScaledLayer,
    Shape,
    only,
    require,
    scale_and_shift_,
)
from tersenet.formats.network.pools import AdaptiveAveragePool, AveragePool, MaxPool

__all__ = [
    "OPERATIONS",
    "AdaptiveAveragePool",
    "Add",
    "AveragePool",
    "ChannelRange",
    "Clip",
    "Concatenate",
    "Convolution",
    "Depthwise",
    "Flatten",
    "HardSigmoid",
    "Linear",
    "MaxPool",
    "Multiply",
    "Operation",
    "PerChannel",
    "Relu",
]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(ScaledLayer):
    """scale · (matrix @ x) + bias, of features."""

    matrix: Matrix
    scale: Floats | None = None
    bias: Floats | None = None

    def shape(self, *shapes: Shape) -> Shape:
        """The matrix's rows."""
        (shape,) = only(self, shapes, 1)
        require(shape == (self.matrix.shape[1],), self, shape)
        self.check_rows()
        return (self.matrix.shape[0],)

    def __call__(self, *values: Floats) -> Floats:
        """Multiplies all samples."""
        (x,) = values
        product = (self.matrix @ x[:, 0])[:, None] if x.shape[1] == 1 else self.matrix @ x
        return scale_and_shift_(product, self.scale, self.bias)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PerChannel(Operation):
    """scale · x + bias by channel: a batch norm with no layer to fold it into."""

    scale: Floats
    bias: Floats

    def shape(self, *shapes: Shape) -> Shape:
        """What is read."""
        (shape,) = only(self, shapes, 1)
        fits = self.scale.shape == self.bias.shape == shape[:1]
        require(fits, self, shape)
        return shape

    def __call__(self, *values: Floats) -> Floats:
        """Scales and shifts a copy."""
        return scale_and_shift_(values[0].copy(), self.scale, self.bias)


@final
@dataclass(frozen=True, kw_only=True)
class Relu(Elementwise):
    """max(x, 0)."""

    def __call__(self, *values: Floats) -> Floats:
        """Cuts what is negative."""
        return np.maximum(values[0], np.float32(0))


@final
@dataclass(frozen=True, kw_only=True)
class Clip(Operation):
    """min(max(x, low), high): ReLU6 and its like."""

    low: float
    high: float

    def shape(self, *shapes: Shape) -> Shape:
        """What is read."""
        (shape,) = only(self, shapes, 1)
        require(self.low <= self.high, self, shape)
        return shape

    def __call__(self, *values: Floats) -> Floats:
        """Cuts what is beyond."""
        return np.clip(values[0], np.float32(self.low), np.float32(self.high))


@final
@dataclass(frozen=True, kw_only=True)
class HardSigmoid(Elementwise):
    """min(max(x + 3, 0), 6) / 6."""

    def __call__(self, *values: Floats) -> Floats:
        """Computes it."""
        return np.clip(values[0] + np.float32(3), np.float32(0), np.float32(6)) / np.float32(6)


@final
@dataclass(frozen=True, kw_only=True)
class Add(Operation):
    """The sum of two values: a residual."""

    def shape(self, *shapes: Shape) -> Shape:
        """What either is."""
        first, second = only(self, shapes, 2)
        require(first == second, self, second)
        return first

    def __call__(self, *values: Floats) -> Floats:
        """Adds."""
        return values[0] + values[1]


@final
@dataclass(frozen=True, kw_only=True)
class Multiply(Operation):
    """The product of two values; the second may have one row and column for all: a gate."""

    def shape(self, *shapes: Shape) -> Shape:
        """What the first is."""
        first, second = only(self, shapes, 2)
        require(second in (first, (first[0], *(1 for _ in first[1:]))), self, second)
        return first

    def __call__(self, *values: Floats) -> Floats:
        """Multiplies."""
        return values[0] * values[1]


@final
@dataclass(frozen=True, kw_only=True)
class ChannelRange(Operation):
    """Channels, or features, from `span[0]` up to `span[1]`."""

    span: Pair

    def shape(self, *shapes: Shape) -> Shape:
        """As many channels."""
        (shape,) = only(self, shapes, 1)
        require(0 <= self.span[0] < self.span[1] <= shape[0], self, shape)
        return (self.span[1] - self.span[0], *shape[1:])

    def __call__(self, *values: Floats) -> Floats:
        """Copies nothing."""
        return values[0][slice(*self.span)]


@final
@dataclass(frozen=True, kw_only=True)
class Concatenate(Operation):
    """The channels of all that is read, one after another."""

    def shape(self, *shapes: Shape) -> Shape:
        """The sum of the channels."""
        require(len({shape[1:] for shape in shapes}) == 1, self, shapes[-1] if shapes else ())
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def __call__(self, *values: Floats) -> Floats:
        """Copies them together."""
        return np.concatenate(values)


@final
@dataclass(frozen=True, kw_only=True)
class Flatten(Operation):
    """Channels, rows and columns as features."""

    def shape(self, *shapes: Shape) -> Shape:
        """All sizes multiplied."""
        return (int(np.prod(only(self, shapes, 1)[0])),)

    def __call__(self, *values: Floats) -> Floats:
        """Brings the samples behind."""
        (x,) = values
        return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


OPERATIONS: Final[dict[str, type[Operation]]] = {
    kind.__name__: kind
    for kind in (
        *(Linear, Convolution, Depthwise, PerChannel, Relu, Clip, HardSigmoid),
        *(Add, Multiply, ChannelRange, Concatenate),
        *(MaxPool, AveragePool, AdaptiveAveragePool, Flatten),
    )
}
"""By the name that a file uses."""
