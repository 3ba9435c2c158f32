"""The ratio of interleaved samples, and how sure it is."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap

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
    """Returns the percentile bootstrap interval (low, high) of the median; of one value, itself.

    Efron, "Bootstrap methods: another look at the jackknife", 1979, Annals of Statistics 7.
    """
    if len(values) < 2:
        return float(values[0]), float(values[0])
    low, high = bootstrap(
        (values,),
        np.median,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=seed,
    ).confidence_interval
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
