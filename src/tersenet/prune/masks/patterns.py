"""How a weight is cut into the units that a mask zeroes together.

Mao et al., "Exploring the Regularity of Sparse Structure in Convolutional Neural Networks",
2017, arXiv:1705.08922: single weights (0-D), vectors (1-D), kernels (2-D), filters (3-D). Rows and
columns of the matrix that a convolution multiplies: Wen et al., "Learning Structured Sparsity in
Deep Neural Networks", 2016, arXiv:1608.03665. N:M: Mishra et al., "Accelerating Sparse Deep
Neural Networks", 2021, arXiv:2104.08378.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias, final

import torch
from jaxtyping import Bool, Float
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from tersenet.errors import StructureError

__all__ = ["UnitLayout", "NofM", "Pattern", "layout", "lowest", "n_of_m", "pattern_name"]


@final
@dataclass(frozen=True)
class UnitLayout:
    """A weight as rows, one per unit.

    The weight, its filters first, is reshaped to `split`; of its dimensions in `order`, the first
    `leading` number the units and the rest the weights of one unit.
    """

    filter_dim: int
    split: tuple[int, ...]
    order: tuple[int, ...]
    leading: int

    @property
    def units(self) -> int:
        """How many units there are."""
        return math.prod(self.split[dim] for dim in self.order[: self.leading])

    def rows(self, weight: Tensor) -> Float[Tensor, "unit weight"]:
        """Returns the weights of each unit in a row of its own."""
        cut = weight.detach().movedim(self.filter_dim, 0).reshape(self.split)
        return cut.permute(self.order).reshape(self.units, -1)

    def weight(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        """Returns rows, of weights or of marks, as a tensor of the weight's `shape`."""
        cut = rows.reshape([self.split[dim] for dim in self.order])
        back = cut.permute([self.order.index(dim) for dim in range(len(self.order))])
        first = [shape[self.filter_dim], *_without(shape, self.filter_dim)]
        return back.reshape(first).movedim(0, self.filter_dim)


def _without(shape: Sequence[int], dim: int) -> list[int]:
    return [size for i, size in enumerate(shape) if i != dim]


@final
@dataclass(frozen=True)
class NofM:
    """At most n of each m consecutive input channels keep their weight."""

    n: int
    m: int


_NAMES: Final = ("element", "vector", "kernel", "filter", "channel", "row", "column")
_N_OF_M: Final = re.compile(r"([0-9]+):([0-9]+)")


def _read(value: Any) -> Any:
    if isinstance(value, int):
        raise ValueError("YAML reads n:m as a number to the base of sixty; put it in quotes, '2:4'")
    named = isinstance(value, str) and (value in _NAMES or _N_OF_M.fullmatch(value))
    if not named and not isinstance(value, list | tuple):
        raise ValueError(f"it must be one of {', '.join(_NAMES)}, [rows, columns], or 'n:m'")
    return value


def _check(value: str | tuple[int, int]) -> str | tuple[int, int]:
    if (found := n_of_m(value)) and not 0 < found.n < found.m:
        raise ValueError("of n:m, n must be at least 1 and below m")
    return value


Pattern: TypeAlias = Annotated[
    Literal["element", "vector", "kernel", "filter", "channel", "row", "column"]
    | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    | str,
    BeforeValidator(_read),
    AfterValidator(_check),
]
"""element: each weight. vector: a row of a kernel. kernel: what one filter does with one input
channel. filter: all that makes one output. channel: all that reads one input channel. row, column:
of the matrix (outputs, inputs × positions). [r, c]: blocks of r outputs by c input channels at one
position. 'n:m': n of each m consecutive input channels stay."""


def pattern_name(pattern: str | tuple[int, int]) -> str:
    """Returns a pattern for a person: 'kernel', '4×4 block', '2:4'."""
    return pattern if isinstance(pattern, str) else f"{pattern[0]}×{pattern[1]} block"


def layout(
    shape: Sequence[int], pattern: str | tuple[int, int], *, filter_dim: int = 0
) -> UnitLayout:
    """Returns how a weight of `shape`, (out, in / groups, *kernel) but for `filter_dim`, is cut.

    Raises:
        StructureError: if the pattern does not divide the weight, or asks for kernels that it
            does not have.
    """
    first = (shape[filter_dim], *_without(shape, filter_dim))
    found = n_of_m(pattern)
    if found is not None:
        split, order, leading = _groups(first, found.m)
    elif isinstance(pattern, tuple):
        split, order, leading = _blocks(first, *pattern)
    else:
        if pattern in {"vector", "kernel"} and len(first) < 3:
            raise StructureError(f"it has no {pattern}s, being no convolution")
        split = first
        order, leading = _ORDERS[str(pattern)](len(first))
    return UnitLayout(filter_dim, split, order, leading)


def lowest(scores: Float[Tensor, " unit"], count: int) -> Bool[Tensor, " unit"]:
    """Marks the `count` lowest scores; of equal ones the first."""
    marks = torch.zeros(len(scores), dtype=torch.bool)
    marks[torch.sort(scores, stable=True).indices[:count]] = True
    return marks


def n_of_m(pattern: str | tuple[int, int]) -> NofM | None:
    """Returns what a pattern 'n:m' says, or None where it is another."""
    match = _N_OF_M.fullmatch(pattern) if isinstance(pattern, str) else None
    return NofM(int(match[1]), int(match[2])) if match else None


_Order: TypeAlias = tuple[tuple[int, ...], int]
_ORDERS: Final[Mapping[str, Callable[[int], _Order]]] = {
    "element": lambda ndim: (tuple(range(ndim)), ndim),
    "vector": lambda ndim: (tuple(range(ndim)), ndim - 1),
    "kernel": lambda ndim: (tuple(range(ndim)), 2),
    "filter": lambda ndim: (tuple(range(ndim)), 1),
    "row": lambda ndim: (tuple(range(ndim)), 1),
    "channel": lambda ndim: ((1, 0, *range(2, ndim)), 1),
    "column": lambda ndim: ((*range(1, ndim), 0), ndim - 1),
}
"""For a weight of so many dimensions, their order and how many of them number the units."""


def _groups(first: tuple[int, ...], m: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    outputs, inputs, *kernel = first
    if inputs % m:
        raise StructureError(f"its {inputs} input channels do not divide into groups of {m}")
    taps = range(3, 3 + len(kernel))
    return (outputs, inputs // m, m, *kernel), (0, 1, *taps, 2), 2 + len(kernel)


def _blocks(first: tuple[int, ...], r: int, c: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    outputs, inputs, *kernel = first
    if outputs % r or inputs % c:
        raise StructureError(
            f"its {outputs} outputs and {inputs} input channels do not divide into blocks of "
            f"{r}×{c}"
        )
    taps = range(4, 4 + len(kernel))
    split = (outputs // r, r, inputs // c, c, *kernel)
    return split, (0, 2, *taps, 1, 3), 2 + len(kernel)
