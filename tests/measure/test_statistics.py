import math

import numpy as np
import pytest

from tersenet.measure.statistics import bootstrap_median, ratio


def exact_interval(values):
    """The bootstrap interval of an odd sample's median, without drawing anything.

    The resampled median is at most the k-th smallest value when at least half of n draws are,
    each with probability k / n: a binomial tail.
    """
    n, middle = len(values), (len(values) + 1) // 2

    def at_most(k):
        return sum(
            math.comb(n, j) * (k / n) ** j * (1 - k / n) ** (n - j) for j in range(middle, n + 1)
        )

    low = next(k for k in range(1, n + 1) if at_most(k) >= 0.025)
    high = next(k for k in range(1, n + 1) if at_most(k) >= 0.975)
    ordered = sorted(values)
    return ordered[low - 1], ordered[high - 1]


# Sizes for which no tail lies so near to 2.5 % that 100,000 draws could not tell.
@pytest.mark.parametrize("count", [9, 13, 21, 27, 39])
def test_interval_equals_the_exact_bootstrap_distribution(count):
    values = np.random.default_rng(count).lognormal(size=count)
    assert bootstrap_median(values, resamples=100_000) == exact_interval(values)


def test_interval_covers_the_true_median_about_95_times_in_100():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        low, high = bootstrap_median(generator.lognormal(size=41), resamples=500, seed=seed)
        covered += low <= 1.0 <= high  # the median of a standard log-normal
    assert 0.91 <= covered / 400 <= 0.99


def test_interval_is_the_same_for_the_same_seed():
    values = np.random.default_rng(1).normal(size=40)
    assert bootstrap_median(values, seed=5) == bootstrap_median(values, seed=5)


def test_ratio_is_the_median_over_rounds_of_the_slices_medians():
    baseline = [[4.0, 4.0, 90.0], [6.0, 6.0, 6.0], [10.0, 10.0, 10.0]]  # medians 4, 6, 10
    own = [[2.0, 2.0, 2.0], [2.0, 2.0, 70.0], [2.0, 2.0, 2.0]]  # medians 2, 2, 2
    middle, low, high = ratio(baseline, own)
    assert middle == 3.0  # of 2, 3, 5
    assert (low, high) == (2.0, 5.0)


def test_rounds_must_be_paired():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        ratio([[1.0], [1.0]], [[1.0]])
