"""The counts that are worth most within a budget of time."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from tersenet.core.knapsack import Factor, TooCoupledError, solve, total
from tersenet.timing.width_costs import Costs

__all__ = ["widths_within"]

_ROUNDS: Final = 8  # of costs taken anew at the counts found


def widths_within(
    costs: Costs,
    options: Mapping[str, Sequence[int]],
    worth: Mapping[str, np.ndarray],
    *,
    budget_ms: float,
    inside: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Returns the counts that are worth most within a budget, or the cheapest where none fit.

    A block is one more group, of one unit. Groups inside a block that goes cost nothing, and are
    worth what they are whole: what their loss does to the network is in the block's.

    Exact where each layer lies between two groups at most. Else the costs are taken apart at the
    present counts, first the largest, and taken anew at what was found until that stays.

    Args:
        costs: the time as a function of the counts.
        options: the counts each group may keep, rising.
        worth: what each of these is worth, in one unit for all groups.
        budget_ms: by `costs`.
        inside: the block that a group lies in, for those that do.
    """
    gains = [_gain(name, own, (inside or {}).get(name)) for name, own in worth.items()]
    sizes = {name: len(counts) for name, counts in options.items()}
    present = {name: counts[-1] for name, counts in options.items()}
    best, joint = {name: counts[0] for name, counts in options.items()}, True
    most = -float("inf")
    for _ in range(_ROUNDS):
        factors = costs.factors(options, present, joint=joint)
        try:
            picks = solve(sizes, [*factors, *gains], budget=budget_ms)
        except TooCoupledError:
            joint = False
            continue
        picks = dict.fromkeys(sizes, 0) if picks is None else picks
        found = {name: options[name][i] for name, i in picks.items()}
        value = total(gains, picks)[1]
        if costs.ms(found) <= budget_ms and value > most:
            best, most = found, value
        if found == present:
            break
        present = found
    return best


def _gain(name: str, worth: np.ndarray, block: str | None) -> Factor:
    if block is None:
        return Factor((name,), np.zeros(len(worth)), worth)
    without = np.full(len(worth), worth[-1])
    return Factor((name, block), np.zeros((len(worth), 2)), np.stack([without, worth], 1))
