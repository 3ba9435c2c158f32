"""A budget corrected until what is chosen within it takes the time asked."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, TypeVar, final

__all__ = ["Attempt", "Bracket", "Correction", "Shift", "fit_to_time"]

_SAME: Final = 1e-3  # budgets so close are one
_BUDGETS: Final = 4  # for each attempt, as budgets may differ and what is chosen not

T = TypeVar("T")


@final
@dataclass(frozen=True, kw_only=True)
class Attempt(Generic[T]):
    """One choice that was timed."""

    choice: T
    estimate: float
    """Share of the original's time, by the sum of the layers."""
    share: float
    """Share of the original's time, as timed."""


class Correction(abc.ABC):
    """Finds the budget to try next."""

    close: ClassVar[float]
    """The share of what was asked from which on a choice uses it up."""

    @abc.abstractmethod
    def __call__(
        self, budget: float, attempt: Attempt, *, asked: float, again: bool
    ) -> float | None:
        """Returns the next budget, or None where there is none to try.

        Args:
            budget: the last one, a share of the original's time by estimate.
            attempt: what was chosen within it.
            asked: the share of the original's time that may be used.
            again: whether the same was chosen before.
        """


@final
class Bracket(Correction):
    """Keeps between the most that met what was asked and the least that did not."""

    close = 0.97

    def __init__(self) -> None:
        self.low, self.high = 0.0, 1.0

    def __call__(
        self, budget: float, attempt: Attempt, *, asked: float, again: bool
    ) -> float | None:
        """Returns the next budget: on the line through the attempt and the original, (1, 1)."""
        del again  # another budget may lead on
        if self.high - self.low < _SAME:
            return None
        if attempt.share <= asked:
            self.low = budget
        else:
            self.high = budget
        if attempt.share < 1 and attempt.estimate < 1:
            target = (1 + self.close) / 2 * asked
            guess = 1 - (1 - target) * (1 - attempt.estimate) / (1 - attempt.share)
            if self.low < guess < self.high:
                return guess
        return (self.low + self.high) / 2


@final
class Shift(Correction):
    """Shifts by what is missing: what is beside the layers costs alike at every choice."""

    close = 0.95

    def __call__(
        self, budget: float, attempt: Attempt, *, asked: float, again: bool
    ) -> float | None:
        """Returns the next budget, until a choice comes again."""
        return None if again else budget + (1 + self.close) / 2 * asked - attempt.share


def fit_to_time(
    choose: Callable[[float], T],
    estimate: Callable[[T], float],
    share: Callable[[T], float],
    *,
    asked: float,
    attempts: int,
    correction: Correction | None = None,
) -> list[Attempt[T]]:
    """Corrects the budget of an estimate until what is chosen takes the time asked.

    Args:
        choose: the best choice within a budget, a share by estimate; the cheapest where none fits.
        estimate: the share of the original's time that a choice is estimated to take.
        share: the same, as timed.
        asked: the share that may be used.
        attempts: choices to time at most.
        correction: how the budget is corrected; by default `Bracket`.

    Returns:
        What was timed, the choice to take last: of those that keep to what was asked the one
        that uses most of it, else the fastest.
    """
    correct = correction or Bracket()
    tried: list[Attempt[T]] = []
    budget: float | None = asked
    for _ in range(_BUDGETS * attempts):
        choice = choose(budget)
        attempt = next((one for one in tried if one.choice == choice), None)
        again = attempt is not None
        if attempt is None:
            if len(tried) == attempts:
                break
            attempt = Attempt(choice=choice, estimate=estimate(choice), share=share(choice))
            tried.append(attempt)
        if correct.close * asked <= attempt.share <= asked:
            break
        budget = correct(budget, attempt, asked=asked, again=again)
        if budget is None:
            break
    met = [attempt for attempt in tried if attempt.share <= asked]
    best = max(met, key=_share) if met else min(tried, key=_share)
    return [attempt for attempt in tried if attempt is not best] + [best]


def _share(attempt: Attempt) -> float:
    return attempt.share
