"""How a tensor lies in a payload, and where decoding can begin in the middle of one."""

from dataclasses import dataclass
from math import prod
from typing import final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic import bins

__all__ = ["EntryPoint", "PayloadLayout"]


@final
@dataclass(frozen=True, kw_only=True)
class PayloadLayout:
    """How a tensor lies in a payload: what coder and decoder must agree on."""

    shape: tuple[int, ...]
    dependent: bool = False
    """The levels come from the trellis of dependent quantisation."""
    leading_bits: int = 0
    """Of a number in front; ISO puts the step size there."""
    unary: int = bins.UNARY
    """Flags "greater than" before the exponential-Golomb code."""
    limits: tuple[int, int] | None = None
    """The largest magnitudes below and above zero, where a codebook sets them."""
    scan: int = 0
    """0: row by row. 1 to 4: in blocks of 4 << scan rows and columns; contexts start anew with
    each row of blocks, at what is called an entry point."""
    trellis: int = 0
    """The state that the trellis begins in."""

    @property
    def row(self) -> int:
        """Levels in a row, or 0 where there are no rows to skip: one row, or one column."""
        if len(self.shape) < 2 or 0 in self.shape:
            return 0
        width = prod(self.shape[1:])
        return width if width > 1 and self.shape[0] > 1 else 0

    @property
    def restarts(self) -> int:
        """Levels between entry points, 0 where there are none."""
        return (4 << self.scan) * prod(self.shape[1:]) if self.scan else 0

    def order(self) -> NDArray[np.int64] | None:
        """The indices of the levels in the order they are coded in; None is row by row."""
        if not self.scan:
            return None
        side = 4 << self.scan
        r, c = np.divmod(np.arange(prod(self.shape)), max(1, prod(self.shape[1:])))
        return np.lexsort((c, r, c // side, r // side))

    def bounds(self) -> NDArray[np.int64]:
        """The limits as the kernels take them."""
        return bins.FREE if self.limits is None else np.array(self.limits, np.int64)


@final
@dataclass(frozen=True, kw_only=True)
class EntryPoint:
    """Where decoding can begin in the middle of a payload, relative to the start before."""

    bits: int
    """Read since then."""
    window: int
    """The decoder's offset in its interval, 8 bits."""
    trellis: int = 0
