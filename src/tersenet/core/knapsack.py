"""The best choices within a budget, where costs depend on pairs of choices.

A knapsack of which one item of each class is taken (multiple-choice knapsack: Sinha and Zoltners,
1979), with costs that belong to several classes at once: a layer's time depends on the widths on
both its sides. Solved by eliminating one class after the other (Dechter, "Bucket elimination",
1999), each time keeping what is not dominated: no other choice has both less cost and more gain.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

__all__ = ["Factor", "TooCoupledError", "solve", "total"]

_MOST_CASES: Final = 50_000
"""Joint choices to go through when a class is eliminated."""


class TooCoupledError(ValueError):
    """More classes depend on each other than can be gone through: internal, always handled."""


@final
@dataclass(frozen=True, eq=False)
class Factor:
    """A part of the cost and the gain that depends on the choices of some classes."""

    names: tuple[str, ...]
    """The classes."""
    cost: np.ndarray
    """One axis for each class, one entry for each of its choices."""
    gain: np.ndarray | None = None
    """Gains, of the same shape; None is no gain."""


@final
@dataclass(frozen=True, eq=False)
class _Front:
    """Undominated ways to decide some classes, by rising cost."""

    cost: np.ndarray  # (way,)
    gain: np.ndarray  # (way,)
    picks: np.ndarray  # (way, class): the choice, -1 where it is not decided yet


_Table = tuple[tuple[str, ...], dict[tuple[int, ...], _Front]]


def total(factors: Iterable[Factor], picks: Mapping[str, int]) -> tuple[float, float]:
    """Returns the cost and the gain of a choice for every class."""
    cost = gain = 0.0
    for factor in factors:
        at = tuple(picks[name] for name in factor.names)
        cost += float(factor.cost[at])
        gain += 0.0 if factor.gain is None else float(factor.gain[at])
    return cost, gain


def solve(
    sizes: Mapping[str, int], factors: Sequence[Factor], *, budget: float, resolution: int = 256
) -> dict[str, int] | None:
    """Returns the choice of each class with the highest gain whose cost is within the budget.

    Exact where no more than `resolution` undominated ways exist at any stage; else the best of
    every 1/`resolution` of the budget is kept, so that what is found always meets the budget.

    Args:
        sizes: how many choices each class has.
        factors: costs and gains; their sums are what counts.
        budget: the most that all factors may cost together.
        resolution: ways to keep at each stage.

    Returns:
        The index chosen for each class, or None where even the cheapest choice costs more.

    Raises:
        TooCoupledError: if too many classes depend on each other.
    """
    order = {name: i for i, name in enumerate(sizes)}
    # From the least cost of each factor on, nothing that is decided later makes a way cheaper.
    budget -= sum(float(factor.cost.min()) for factor in factors)
    if budget < 0:
        return None
    tables = [_table(factor, order) for factor in factors]
    left = set(sizes)
    while left:
        scopes = {name: _scope(name, tables) for name in left}
        cases = {
            name: sizes[name] * math.prod(sizes[other] for other in scope)
            for name, scope in scopes.items()
        }
        name = min(left, key=lambda variable: (cases[variable], order[variable]))
        if cases[name] > _MOST_CASES:
            raise TooCoupledError(f"{cases[name]} joint choices around '{name}'")
        involved = [table for table in tables if name in table[0]]
        tables = [table for table in tables if name not in table[0]]
        found: dict[tuple[int, ...], _Front] = {}
        for at in itertools.product(*(range(sizes[other]) for other in scopes[name])):
            given = dict(zip(scopes[name], at, strict=True))
            found[at] = _eliminate(name, sizes, order, involved, given, budget, resolution)
        tables.append((scopes[name], found))
        left.remove(name)
    final_front = _empty(len(order))
    for _, fronts in tables:
        final_front = _join(final_front, fronts[()], budget, resolution)
    if not len(final_front.cost):
        return None
    best = final_front.picks[int(final_front.gain.argmax())]
    return {name: int(best[i]) for name, i in order.items()}


def _eliminate(
    name: str,
    sizes: Mapping[str, int],
    order: Mapping[str, int],
    involved: Sequence[_Table],
    given: Mapping[str, int],
    budget: float,
    resolution: int,
) -> _Front:
    """Returns the undominated ways to decide `name` and what went before it, given the others."""
    ways = []
    for choice in range(sizes[name]):
        picks = {**given, name: choice}
        front = _empty(len(order))
        front.picks[0, order[name]] = choice
        for names, fronts in involved:
            own = fronts[tuple(picks[other] for other in names)]
            front = _join(front, own, budget, resolution)
        ways.append(front)
    return _thin(
        np.concatenate([way.cost for way in ways]),
        np.concatenate([way.gain for way in ways]),
        np.concatenate([way.picks for way in ways]),
        budget,
        resolution,
    )


def _scope(name: str, tables: Iterable[_Table]) -> tuple[str, ...]:
    others = (other for names, _ in tables if name in names for other in names)
    return tuple(other for other in dict.fromkeys(others) if other != name)


def _table(factor: Factor, order: Mapping[str, int]) -> _Table:
    gain = np.zeros_like(factor.cost) if factor.gain is None else factor.gain
    undecided, least = np.full((1, len(order)), -1), factor.cost.min()
    fronts = {
        at: _Front((factor.cost[at] - least).reshape(1), gain[at].reshape(1), undecided)
        for at in np.ndindex(factor.cost.shape)
    }
    return factor.names, fronts


def _empty(classes: int) -> _Front:
    return _Front(np.zeros(1), np.zeros(1), np.full((1, classes), -1))


def _join(own: _Front, other: _Front, budget: float, resolution: int) -> _Front:
    cost = (own.cost[:, None] + other.cost).ravel()
    gain = (own.gain[:, None] + other.gain).ravel()
    picks = np.maximum(own.picks[:, None], other.picks).reshape(len(cost), own.picks.shape[1])
    return _thin(cost, gain, picks, budget, resolution)


def _thin(
    cost: np.ndarray, gain: np.ndarray, picks: np.ndarray, budget: float, resolution: int
) -> _Front:
    order = np.lexsort((-gain, cost))
    order = order[cost[order] <= budget]
    sorted_gain = gain[order]
    before = np.maximum.accumulate(np.concatenate(([-np.inf], sorted_gain)))[:-1]
    order = order[sorted_gain > before]
    if len(order) > resolution:
        bins = np.floor(cost[order] / max(budget, 1e-30) * (resolution - 1)).astype(int)
        last = np.append(bins[1:] != bins[:-1], True)  # the highest gain of its bin
        last[0] = True  # the cheapest way stays: it may be the only one that fits in the end
        order = order[last]
    return _Front(cost[order], gain[order], picks[order])
