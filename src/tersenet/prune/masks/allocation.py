"""How sparse each layer becomes, when all together are to reach one sparsity.

Erdős–Rényi kernels: Evci et al., "Rigging the Lottery: Making All Tickets Winners", 2020,
arXiv:1911.11134, after Mocanu et al., 2018. By sensitivity: Han et al., "Learning both Weights
and Connections for Efficient Neural Networks", 2015, arXiv:1506.02626; Li et al., 2016,
arXiv:1608.08710.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TypeAlias

__all__ = ["Curve", "by_sensitivity", "erk", "largest_below"]

Curve: TypeAlias = Sequence[tuple[float, float]]
"""(sparsity, what it costs: points or nats) of one layer alone, the sparsity rising from 0."""


def erk(shapes: Mapping[str, Sequence[int]], sparsity: float) -> dict[str, float]:
    """Returns the sparsity of each weight so that all together have `sparsity`.

    The density of a weight (out, in, *kernel) is ε (out + in + Σ kernel) / (out · in · Π kernel).
    A weight whose density would exceed one stays dense, and ε is found anew for the rest.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        rest = sizes.keys() - dense
        left = (1 - sparsity) * sum(sizes.values()) - sum(sizes[name] for name in dense)
        scale = left / sum(raw[name] * sizes[name] for name in rest) if rest else 0.0
        full = {name for name in rest if scale * raw[name] > 1}
        if not full:
            return {name: 0.0 if name in dense else 1 - scale * raw[name] for name in sizes}
        # The fullest alone: once it is dense, another may no longer be.
        dense.add(max(full, key=lambda name: (raw[name], name)))


def largest_below(curve: Curve, bound: float) -> float:
    """Returns the largest sparsity up to which no measured cost exceeds `bound`.

    Between two points the cost is taken to rise in a straight line.
    """
    levels = [level for level, _ in curve]
    costs = list(accumulate((cost for _, cost in curve), max))  # noise must not let a drop pass
    index = bisect_right(costs, bound)
    if index == 0:
        return 0.0
    if index == len(curve):
        return levels[-1]
    low, high = costs[index - 1], costs[index]
    share = (bound - low) / (high - low)
    return levels[index - 1] + share * (levels[index] - levels[index - 1])


def by_sensitivity(
    curves: Mapping[str, Curve], sizes: Mapping[str, int], sparsity: float
) -> dict[str, float]:
    """Returns the sparsity of each layer so that all together have `sparsity`.

    One bound holds for the cost of every layer; the lowest that leaves few enough weights. What
    it would remove beyond that is given back in proportion. Where even the ends of the curves
    remove too little, every layer goes on towards one in proportion.
    """
    wanted = sparsity * sum(sizes.values())

    def rates(bound: float) -> dict[str, float]:
        return {name: largest_below(curve, bound) for name, curve in curves.items()}

    def removed(shares: Mapping[str, float]) -> float:
        return sum(sizes[name] * rate for name, rate in shares.items())

    low = min(cost for curve in curves.values() for _, cost in curve)
    high = max(cost for curve in curves.values() for _, cost in curve)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if removed(rates(middle)) >= wanted else (middle, high)
    shares = rates(high)
    total = removed(shares)
    if total >= wanted:
        return {name: rate * wanted / total for name, rate in shares.items()}
    missing = (wanted - total) / (sum(sizes.values()) - total)
    return {name: rate + missing * (1 - rate) for name, rate in shares.items()}
