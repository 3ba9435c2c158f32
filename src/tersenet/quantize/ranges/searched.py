"""The best bound on magnitudes by search: an outlier at one end does not cut the other."""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from tersenet.quantize.ranges.histogram import Histogram

__all__ = ["BinLoss", "best_range"]

BinLoss: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray, float], float]
"""From centres of bins in steps, their counts, the levels they fall on and the step, to what is
lost."""

_SHARES: Final = np.concatenate([np.linspace(1, 0.2, 80), np.geomspace(0.2, 1 / 64, 40)[1:]])
"""Of the largest magnitude: below a fifth lies what a single outlier leaves."""


def best_range(seen: Histogram, bits: int, loss: BinLoss) -> tuple[float, float]:
    """Returns the range of least loss among those that end at a share of the largest magnitude."""
    centres, counts = seen.filled
    best, least = (seen.min, seen.max), np.inf
    largest = max(-seen.min, seen.max)
    for bound in _SHARES * largest:
        low, high = min(max(seen.min, -bound), 0.0), max(min(seen.max, bound), 0.0)
        step = (high - low) / (2**bits - 1)
        if step <= 0:
            continue
        zero = np.round(-low / step)
        levels = np.clip(np.round(centres / step) + zero, 0, 2**bits - 1)
        error = loss(centres / step, counts, levels - zero, step)
        if error < least:
            best, least = (float(low), float(high)), error
    return best
