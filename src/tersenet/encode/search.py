"""One number to search: what a bit is worth."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Final, final

__all__ = ["RateTrial", "search"]

STRIDE: Final = 4.0
"""Factor between trials until the budget lies between two of them."""


@final
@dataclass(frozen=True)
class RateTrial:
    """One value of lambda, and what came of it."""

    lam: float
    file_bytes: int
    drop: float | None
    steps: dict[str, float]


def search(
    attempt: Callable[[float], RateTrial],
    holds: Callable[[RateTrial], bool],
    *,
    start: float,
    trials: int,
    rising: bool,
) -> RateTrial:
    """Returns the trial nearest the edge between those that hold and those that do not.

    Strides up or down until the two sides of the edge are known, then halves the interval in
    logarithm. Where none holds, the one that comes closest.

    Args:
        attempt: tries one lambda.
        holds: whether its outcome is within the budget.
        start: the first lambda.
        trials: how many, at least 1.
        rising: larger lambdas tend to hold, and the least is sought; else the other way round.
    """
    stride = 1 / STRIDE if rising else STRIDE
    good: RateTrial | None = None
    bad: RateTrial | None = None
    lam = start
    for _ in range(trials):
        trial = attempt(lam)
        if holds(trial):
            good = trial
        else:
            bad = trial
        if good is not None and bad is not None:
            lam = sqrt(good.lam * bad.lam)
        else:
            lam *= stride if good is not None else 1 / stride
    found = good or bad
    assert found is not None  # trials >= 1
    return found
