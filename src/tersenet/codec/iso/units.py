"""What the files of ISO/IEC 15938-17 are made of: units, steps, and what heads say."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log2
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic.layout import EntryPoint

__all__ = ["LayerUnit", "Codebook", "Head", "Model", "nearest_qp", "step_of"]

DENSITY: Final = 2
"""log2 of the quantisation parameters per octave."""

START, MODEL, LAYER, TOPOLOGY, QUANTISATION, DATA, AGGREGATE = range(7)
INT, FLOAT, RAW, BLOCK = range(4)
DECOMPOSED, SCALED, NORMED, BIASED = 1, 2, 4, 8
"""What a block holds beside its weight, as bits."""
NAMES: Final = ("start", "model", "layer", "topology", "quantisation", "data", "aggregate")
STEEPEST: Final = 95
"""Octaves of a step beyond which a level of 32 bits times the step is no 32-bit float."""
LONG: Final = 1 << 15
"""Bytes from which a unit's size takes 4 bytes instead of 2."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerUnit:
    """A layer in one unit, by the names of its tensors: one code for all of them."""

    weight: str
    scaling: str | None = None
    """Of the local scaling adaptation: one factor per output."""
    bias: str | None = None
    norm: tuple[str, str, str, str] | None = None
    """Batch norm: shift, scale, mean, variance."""

    @property
    def kinds(self) -> int:
        """What is there, as bits."""
        return SCALED * bool(self.scaling) | NORMED * bool(self.norm) | BIASED * bool(self.bias)

    def names_in_head(self) -> list[str]:
        """The tensors in the order in which the head names them."""
        scaling, bias = [self.scaling] if self.scaling else [], [self.bias] if self.bias else []
        return [self.weight, *scaling, *(self.norm or ()), *bias]

    def names_as_coded(self) -> list[str]:
        """The tensors in the order in which they are coded."""
        scaling, bias = [self.scaling] if self.scaling else [], [self.bias] if self.bias else []
        return [*scaling, *bias, *(self.norm or ()), self.weight]

    @classmethod
    def of(cls, names: Sequence[str], kinds: int) -> "LayerUnit":
        """The block whose head names these tensors."""
        rest = list(names[1:])
        scaling = rest.pop(0) if kinds & SCALED else None
        norm = (rest.pop(0), rest.pop(0), rest.pop(0), rest.pop(0)) if kinds & NORMED else None
        return cls(
            weight=names[0], scaling=scaling, bias=rest.pop(0) if kinds & BIASED else None,
            norm=norm,
        )  # fmt: skip


@final
@dataclass(frozen=True, kw_only=True)
class Codebook:
    """What levels stand for, as whole numbers of steps, and which of them level 0 is."""

    values: tuple[int, ...]
    zero: int

    @property
    def limits(self) -> tuple[int, int]:
        """The largest magnitudes of a level below and above zero."""
        return self.zero, len(self.values) - 1 - self.zero

    def weights(self, levels: NDArray[np.int32]) -> NDArray[np.int64]:
        """The whole numbers that levels stand for."""
        return np.array(self.values, np.int64)[levels.astype(np.int64) + self.zero]


@final
@dataclass(frozen=True, kw_only=True)
class Model:
    """What the model parameter set says for all tensors."""

    density: int
    qp: int
    parents: bool
    indexed: bool


@final
@dataclass(frozen=True, kw_only=True)
class Head:
    """What stands before a payload."""

    kind: int
    block: LayerUnit
    """Of a tensor that stands alone, only its name."""
    dependent: bool
    shape: tuple[int, ...]
    """Of the weight; what a block holds beside it has one value per output."""
    unary: int
    codebook: Codebook | None = None
    scan: int = 0
    entries: tuple[EntryPoint, ...] = ()


def step_of(qp: int, *, density: int = DENSITY) -> float:
    """The step size that a quantisation parameter stands for."""
    per_octave = 1 << density
    return (per_octave + (qp & (per_octave - 1))) * 2.0 ** ((qp >> density) - density)


def nearest_qp(step: float, *, density: int = DENSITY) -> int:
    """The quantisation parameter whose step is closest in ratio."""
    octave = floor(log2(step))
    guess = (octave << density) + ceil((step / 2.0**octave - 1) * (1 << density)) - 1
    ratios = {qp: abs(log2(step_of(qp, density=density) / step)) for qp in range(guess, guess + 3)}
    return min(ratios, key=lambda qp: ratios[qp])
