"""A step of a training that takes far longer than those before it is told, in a sentence."""

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final, final

__all__ = ["Pace"]

_TIMES: Final = 100
_SECONDS: Final = 5.0
"""Shorter steps are not worth a word, however short their predecessors were."""
_KEPT: Final = 50
_FIRST: Final = 3
"""Steps that must be done before one can be out of the ordinary."""


@final
class Pace:
    """How long steps take."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._seconds: deque[float] = deque(maxlen=_KEPT)

    def begin(self) -> None:
        """A step begins."""
        self._began = self._clock()

    def end(self, step: int) -> str | None:
        """The step is done: returns what is to be told of it, if anything."""
        took, before = self._clock() - self._began, self._seconds
        usual = median(before) if len(before) >= _FIRST else None
        before.append(took)
        if usual is None or took < max(_SECONDS, _TIMES * usual):
            return None
        return (
            f"training step {step} took {took:.0f} s, those before it {usual:.3f} s: the machine "
            "was busy with something else or slept, or it is short of memory."
        )
