"""The knapsack against going through every choice."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from tersenet.core.knapsack import Factor, TooCoupledError, solve, total


def by_brute_force(
    sizes: Mapping[str, int], factors: Sequence[Factor], budget: float
) -> float | None:
    """The highest gain within the budget, from all choices."""
    gains = []
    for choice in itertools.product(*(range(size) for size in sizes.values())):
        cost, gain = total(factors, dict(zip(sizes, choice, strict=True)))
        if cost <= budget:
            gains.append(gain)
    return max(gains, default=None)


def problem(seed: int) -> tuple[dict[str, int], list[Factor], float]:
    """Up to five classes of up to four choices, any pairs of which share a cost."""
    generator = np.random.default_rng(seed)
    sizes = {f"g{i}": int(generator.integers(1, 5)) for i in range(generator.integers(1, 6))}
    factors = [Factor((), np.array(float(generator.integers(0, 3))))]
    for name, size in sizes.items():
        gain = generator.integers(-5, 20, size).astype(float)
        factors.append(Factor((name,), generator.integers(-3, 9, size).astype(float), gain))
    for pair in itertools.combinations(sizes, 2):
        if generator.random() < 0.6:
            shape = [sizes[name] for name in pair]
            factors.append(Factor(pair, generator.integers(0, 9, shape).astype(float)))
    return sizes, factors, float(generator.integers(0, 40))


@pytest.mark.parametrize("seed", range(40))
def test_equals_brute_force(seed: int) -> None:
    sizes, factors, budget = problem(seed)
    picks, best = solve(sizes, factors, budget=budget, resolution=10**6), None
    if picks is not None:
        cost, best = total(factors, picks)
        assert cost <= budget + 1e-9
    assert best == by_brute_force(sizes, factors, budget)


@pytest.mark.parametrize("seed", range(40, 60))
def test_coarse_it_still_keeps_to_the_budget(seed: int) -> None:
    sizes, factors, budget = problem(seed)
    picks = solve(sizes, factors, budget=budget, resolution=3)
    best = by_brute_force(sizes, factors, budget)
    assert (picks is None) == (best is None)
    if picks is not None and best is not None:
        cost, gain = total(factors, picks)
        assert cost <= budget + 1e-9
        assert gain <= best


def test_what_depends_on_too_much_is_refused() -> None:
    sizes = {f"g{i}": 8 for i in range(8)}
    factors = [Factor(pair, np.ones((8, 8))) for pair in itertools.combinations(sizes, 2)]
    with pytest.raises(TooCoupledError, match="joint choices"):
        solve(sizes, factors, budget=100)
