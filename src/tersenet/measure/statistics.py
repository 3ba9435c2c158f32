"""The ratio of interleaved samples, and how sure it is."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

__all__ = ["bootstrap_median", "ratio"]

RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95


def bootstrap_median(
    values: Float[np.ndarray, " sample"],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval (low, high) of the median.

    Efron, "Bootstrap methods: another look at the jackknife", 1979, Annals of Statistics 7.
    """
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    medians = np.median(values[drawn], axis=1)  # (resample,)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(medians, [tail, 100 - tail])
    return float(low), float(high)


def ratio(
    baseline: Sequence[Sequence[float]], own: Sequence[Sequence[float]], *, seed: int = 0
) -> tuple[float, float, float]:
    """Returns how many times faster `own` is, with its 95 % interval: (ratio, low, high).

    Both hold samples by round. Each round gives one ratio, of the medians of its two slices,
    which were taken within milliseconds of each other; rounds are what is resampled.
    """
    per_round = np.array(
        [np.median(theirs) / np.median(ours) for theirs, ours in zip(baseline, own, strict=True)]
    )
    return float(np.median(per_round)), *bootstrap_median(per_round, seed=seed)
