"""Numbers that say which record they come from.

Every number on the page carries its source, an expression over the journal's steps such as
`steps.2.cost.file_bytes` or `ratio(steps.0.cost.macs,steps.2.cost.macs)`, and its exact value;
so a reader, or a test, can check the page against the journal.

| expression          | what it is                                                        |
|---------------------|-------------------------------------------------------------------|
| `a.b.0.c`           | the journal's value at that path                                  |
| `p50(l)`, `p95(l)`  | percentile of a latency's samples, in ms                          |
| `p50_low(l)`, `p50_high(l)` | bounds of the median's 95 % interval, by order statistics |
| `ratio(a,b)`        | a / b                                                             |
| `wilson_low(s)`, `wilson_high(s)` | bounds of a score's 95 % interval                   |
| `change(s,t)`       | points that score s lies above t                                  |
| `drop_low(s,t)`, `drop_high(s,t)` | bounds of the 95 % interval of -change(s,t)         |
| `length(a)`         | number of entries                                                 |
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

from markupsafe import Markup

__all__ = ["Figure", "Interval", "Missing", "Number", "figure"]


@final
@dataclass(frozen=True)
class Missing:
    """Stands where a figure would, and says why there is none."""

    reason: str
    text: str = "not measured"

    def __bool__(self) -> bool:
        """A missing figure is false, so that `figure or other` reads well."""
        return False

    def __html__(self) -> str:
        """Returns the words, with the reason on hover."""
        return Markup('<span class="missing" title="{}">{}</span>').format(self.reason, self.text)


@final
@dataclass(frozen=True)
class Figure:
    """One finite number, its source and how it is written."""

    source: str
    value: float
    text: str

    def __bool__(self) -> bool:
        """A figure is there, even when it is zero."""
        return True

    @property
    def exact(self) -> str:
        """The value as JSON."""
        return json.dumps(self.value)

    def __html__(self) -> str:
        """Returns the text, with source and value for machines."""
        return Markup('<span class="figure" data-figure="{}" data-value="{}">{}</span>').format(
            self.source, self.exact, self.text
        )


Number: TypeAlias = Figure | Missing


@final
@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its 95 % interval."""

    middle: Number
    low: Number
    high: Number

    def __bool__(self) -> bool:
        """Whether all three are there."""
        return bool(self.middle and self.low and self.high)


def figure(source: str, value: float | None, write: Callable[[float], str]) -> Number:
    """Returns a figure, or what stands for one that is not a finite number."""
    if value is None:
        return Missing("no such figure in the records")
    if not math.isfinite(value):
        return Missing("the recorded value is not a finite number", "not finite")
    exact = value if isinstance(value, int) else float(value)
    return Figure(source, exact, write(exact))
