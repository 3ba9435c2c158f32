"""One number to search: what a bit is worth."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Final, final

__all__ = ["Trial", "largest", "smallest"]

STRIDE: Final = 4.0
"""Factor between trials until the budget lies between two of them."""


@final
@dataclass(frozen=True)
class Trial:
    """One value of lambda, and what came of it."""

    lam: float
    file_bytes: int
    drop: float | None
    steps: dict[str, float]


def largest(
    attempt: Callable[[float], Trial],
    holds: Callable[[Trial], bool],
    *,
    start: float,
    trials: int,
) -> Trial:
    """Returns the smallest file among trials that hold, where smaller lambdas tend to hold.

    Strides up or down until the two sides of the edge are known, then halves the interval in
    logarithm. Where none holds, the one that comes closest: the trial of the least lambda.
    """
    return _bisect(attempt, holds, start=start, trials=trials, stride=STRIDE)


def smallest(
    attempt: Callable[[float], Trial],
    holds: Callable[[Trial], bool],
    *,
    start: float,
    trials: int,
) -> Trial:
    """Returns the trial of the least lambda that holds, where larger lambdas tend to hold."""
    return _bisect(attempt, holds, start=start, trials=trials, stride=1 / STRIDE)


def _bisect(
    attempt: Callable[[float], Trial],
    holds: Callable[[Trial], bool],
    *,
    start: float,
    trials: int,
    stride: float,
) -> Trial:
    good: Trial | None = None
    bad: Trial | None = None
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
