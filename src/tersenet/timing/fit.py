"""A budget corrected until what is chosen within it takes the time asked."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, Generic, TypeVar, final

__all__ = ["Attempt", "Bracket", "Offset", "fit_to_time"]

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


@final
class Bracket:
    """The next budget between the most that met what was asked and the least that did not.

    On the line through the attempt and the original, which is (1, 1), where that lies between.
    """

    close = 0.97
    """The share of what was asked from which on a choice uses it up."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 1.0

    def __call__(self, budget: float, attempt: Attempt, asked: float, again: bool) -> float | None:
        """Returns the next budget; None where there is none between."""
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
class Offset:
    """The budget shifted by what is missing: what is beside the layers costs alike everywhere."""

    close = 0.95
    """As of `Bracket`."""

    def __call__(self, budget: float, attempt: Attempt, asked: float, again: bool) -> float | None:
        """Returns the next budget; None where the same was chosen again."""
        return None if again else budget + (1 + self.close) / 2 * asked - attempt.share


def fit_to_time(
    choose: Callable[[float], T],
    share: Callable[[T], float],
    estimate: Callable[[T], float] | None = None,
    *,
    asked: float,
    attempts: int,
    correct: Bracket | Offset | None = None,
) -> list[Attempt[T]]:
    """Corrects the budget of an estimate until what is chosen takes the time asked.

    Args:
        choose: the best choice within a budget, a share by estimate; the cheapest where none fits.
        share: the share of the original's time that a choice takes, as timed.
        estimate: the same, by the sum of the layers; without, it counts as what is timed.
        asked: the share that may be used.
        attempts: choices to time at most.
        correct: how the budget is corrected; by default a `Bracket`.

    Returns:
        What was timed, the choice to take last: of those that keep to what was asked the one
        that uses most of it, else the fastest.
    """
    correct = correct or Bracket()
    tried: list[Attempt[T]] = []
    budget: float | None = asked
    for _ in range(_BUDGETS * attempts):
        choice = choose(budget)
        attempt = next((past for past in tried if past.choice == choice), None)
        again = attempt is not None
        if attempt is None:
            if len(tried) == attempts:
                break
            timed = share(choice)
            estimated = timed if estimate is None else estimate(choice)
            attempt = Attempt(choice=choice, estimate=estimated, share=timed)
            tried.append(attempt)
        if correct.close * asked <= attempt.share <= asked:
            break
        budget = correct(budget, attempt, asked, again)
        if budget is None:
            break
    met = [attempt for attempt in tried if attempt.share <= asked]
    by_share = attrgetter("share")
    best = max(met, key=by_share) if met else min(tried, key=by_share)
    return [attempt for attempt in tried if attempt is not best] + [best]
