"""Counts of an activation's values in bins of fixed number, whatever is seen.

Memory is bounded by a batch: where a value falls outside, bins are merged in pairs. The same
batches in the same order give the same counts.
"""

from typing import Final, final

import numpy as np
from torch import Tensor

from tersenet.quantize.ranges.observer import Observer

__all__ = ["BINS", "Histogram"]

BINS: Final = 4096
"""Of a histogram: a bin is at most 1/8 of an 8-bit step of the range it covers."""


@final
class Histogram(Observer):
    """Counts per bin of width 2**k: rounding the width up makes merging bins exact."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 0.0
        self.first = 0
        """Index of the first bin: it covers [first, first + 1) * width."""
        self.counts = np.zeros(BINS, np.int64)

    def observe(self, x: Tensor) -> None:
        """Takes one batch into account, sample first."""
        super().observe(x)
        values = x.detach().numpy().ravel().astype(np.float64)
        if self.width == 0.0:
            # A first batch of one value alone has no spread: float32 could not part two closer.
            largest = max(-self.min, self.max)
            tiny = float(np.finfo(np.float32).tiny)
            spread = max(self.max - self.min, largest * 2**-20, tiny)
            self.width = 2.0 ** np.ceil(np.log2(spread / (BINS // 2)))
            self.first = int(np.floor(self.min / self.width))
        self._cover(self.min, self.max)
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

    @property
    def filled(self) -> tuple[np.ndarray, np.ndarray]:
        """The centres of the bins that hold something, and how much each holds."""
        filled = np.flatnonzero(self.counts)
        centres = (self.edges[filled] + self.edges[filled + 1]) / 2
        return np.clip(centres, self.min, self.max), self.counts[filled]

    @property
    def mean(self) -> float:
        """Of all values, to a bin."""
        centres, counts = self.filled
        return float(counts @ centres / counts.sum())

    @property
    def std(self) -> float:
        """Standard deviation."""
        centres, counts = self.filled
        return float(np.sqrt(counts @ np.square(centres - self.mean) / counts.sum()))

    @property
    def b(self) -> float:
        """Mean distance from the mean: the b of a Laplace distribution."""
        centres, counts = self.filled
        return float(counts @ np.abs(centres - self.mean) / counts.sum())
