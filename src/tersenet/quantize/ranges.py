"""The range of an activation, observed batch by batch.

Memory is bounded by a batch: beyond it an observer keeps a histogram of fixed size, whose bins
are merged in pairs when a value falls outside. Same batches in the same order, same range.
"""

import abc
from typing import Final, Literal, TypeAlias, final

import numpy as np
from torch import Tensor

from tersenet.errors import QuantizeError

__all__ = ["MinMax", "MinimumError", "Observer", "Percentile", "RangeKind", "observer"]

RangeKind: TypeAlias = Literal["min-max", "percentile", "mse"]

BINS: Final = 4096
"""Of a histogram: a bin is at most 1/8 of an 8-bit step of the range it covers."""


class Observer(abc.ABC):
    """Sees batches of one value and decides its range."""

    def __init__(self) -> None:
        self.minimum = float("inf")
        self.maximum = float("-inf")

    def observe(self, x: Tensor) -> None:
        """Takes one batch into account.

        Raises:
            QuantizeError: if it holds NaN or infinity.
        """
        low, high = (float(end) for end in x.aminmax())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise QuantizeError("activations are NaN or infinite")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    @property
    def constant(self) -> bool:
        """Whether only one distinct value, or none, was seen."""
        return not self.minimum < self.maximum

    @abc.abstractmethod
    def range(self) -> tuple[float, float]:
        """Returns the least and the largest value to represent."""


@final
class MinMax(Observer):
    """Everything that was seen: nothing is clipped."""

    def range(self) -> tuple[float, float]:
        """Returns the least and the largest value seen."""
        return self.minimum, self.maximum


class _Histogram(Observer):
    """Counts per bin of width 2**k: rounding the width up makes merging bins exact."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 0.0
        self.first = 0
        """Index of the first bin: it covers [first, first + 1) * width."""
        self.counts = np.zeros(BINS, np.int64)

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        values = x.detach().numpy().ravel().astype(np.float64)
        if self.width == 0.0:
            # A first batch of one value alone has no spread: float32 could not part two closer.
            largest = max(-self.minimum, self.maximum)
            tiny = float(np.finfo(np.float32).tiny)
            spread = max(self.maximum - self.minimum, largest * 2**-20, tiny)
            self.width = 2.0 ** np.ceil(np.log2(spread / (BINS // 2)))
            self.first = int(np.floor(self.minimum / self.width))
        self._cover(self.minimum, self.maximum)
        index = np.floor(values / self.width).astype(np.int64) - self.first
        self.counts += np.bincount(index, minlength=BINS)

    def _cover(self, low: float, high: float) -> None:
        while True:
            first, last = int(np.floor(low / self.width)), int(np.floor(high / self.width))
            if last - first < BINS:
                break
            self._merge()
        if first < self.first or last >= self.first + BINS:
            shifted = np.zeros_like(self.counts)
            filled = np.flatnonzero(self.counts)
            shifted[filled + self.first - first] = self.counts[filled]
            self.counts, self.first = shifted, first

    def _merge(self) -> None:
        """Doubles the width: bins 2i and 2i + 1 become bin i."""
        merged = np.zeros_like(self.counts)
        index = (np.arange(BINS) + self.first) // 2 - self.first // 2
        np.add.at(merged, index, self.counts)
        self.counts, self.width, self.first = merged, 2 * self.width, self.first // 2

    @property
    def edges(self) -> np.ndarray:
        """Of the bins, one more than there are."""
        return (self.first + np.arange(BINS + 1)) * self.width


@final
class Percentile(_Histogram):
    """The middle share of values; the tails on either side are clipped.

    A few outliers then no longer coarsen every step. Zeros count: after a ReLU the lower end
    stays at zero.
    """

    def __init__(self, share: float) -> None:
        """`share` is in percent: 99.99 clips half a hundredth of a percent at each end."""
        super().__init__()
        self.share = share

    def range(self) -> tuple[float, float]:
        """Returns the two percentiles, to the width of a bin."""
        tail = (1 - self.share / 100) / 2
        running = np.cumsum(self.counts)
        low = int(np.searchsorted(running, tail * running[-1], side="right"))
        high = int(np.searchsorted(running, (1 - tail) * running[-1], side="left"))
        edges = self.edges
        return max(self.minimum, edges[low]), min(self.maximum, edges[high + 1])


@final
class MinimumError(_Histogram):
    """The range of least mean squared error, between clipping and rounding.

    Searched over shares of the observed range, both ends shrunk together; the error of each is
    taken from the histogram.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def range(self) -> tuple[float, float]:
        """Returns the best of 80 ranges, from a fifth of the observed one to all of it."""
        filled = np.flatnonzero(self.counts)
        counts = self.counts[filled]
        centres = np.clip(
            (self.edges[filled] + self.edges[filled + 1]) / 2, self.minimum, self.maximum
        )
        best, least = (self.minimum, self.maximum), np.inf
        for share in np.linspace(1, 0.2, 80):
            low, high = min(share * self.minimum, 0), max(share * self.maximum, 0)
            step = (high - low) / (2**self.bits - 1)
            if step <= 0:
                continue
            zero = np.round(-low / step)
            levels = np.clip(np.round(centres / step) + zero, 0, 2**self.bits - 1)
            error = float(counts @ np.square((levels - zero) * step - centres))
            if error < least:
                best, least = (low, high), error
        return best


def observer(kind: RangeKind, *, percentile: float, bits: int) -> Observer:
    """Returns a fresh observer; `percentile` and `bits` matter to the kinds named so."""
    if kind == "min-max":
        return MinMax()
    if kind == "percentile":
        return Percentile(percentile)
    return MinimumError(bits)
