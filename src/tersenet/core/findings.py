"""What a study hands back: a question, measured points, and what was found of each claim.

Plain data, so that it is kept as JSON, its tables as CSV, and drawn by the report.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, final

__all__ = [
    "BoxChart", "Claim", "Findings", "Found", "LineChart", "Samples", "Series", "Table", "decide",
]  # fmt: skip

Found: TypeAlias = Literal["holds", "does not hold", "undecided"]


@final
@dataclass(frozen=True)
class Series:
    """One line, or one set of points, of a chart."""

    name: str
    x: tuple[float, ...] = ()
    """Where each point lies along the horizontal axis."""
    y: tuple[float, ...] = ()
    """How high each point lies."""
    low: tuple[float, ...] = ()
    """Lower ends of intervals around y, one per point; empty where there are none."""
    high: tuple[float, ...] = ()
    """Upper ends of these intervals."""

    @classmethod
    def of(cls, name: str, points: Iterable[Sequence[float]]) -> "Series":
        """Returns the series through points (x, y), or (x, y, low, high) with intervals."""
        return cls(name, *zip(*points, strict=True)) if (points := list(points)) else cls(name)


@final
@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Series over one horizontal axis."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    joined: bool = True
    """Whether points are joined by a line; without, they are scattered."""
    x_log: bool = False
    """Whether the horizontal axis is logarithmic."""
    y_log: bool = False
    """Whether the vertical axis is logarithmic."""
    note: str = ""
    """A sentence below the chart; empty for none."""


@final
@dataclass(frozen=True, kw_only=True)
class Samples:
    """The values behind one box of a box plot."""

    name: str
    """What stands under the box; neighbours of one name share it."""
    group: str
    """Boxes of one group share a colour."""
    values: tuple[float, ...]


@final
@dataclass(frozen=True, kw_only=True)
class BoxChart:
    """Box plots side by side: median, quartiles, and whiskers to the extremes."""

    title: str
    y_label: str
    boxes: tuple[Samples, ...]
    y_log: bool = False
    """Whether the vertical axis is logarithmic."""
    note: str = ""
    """A sentence below the chart; empty for none."""


@final
@dataclass(frozen=True, kw_only=True)
class Table:
    """Figures in rows; also written as CSV under its name."""

    name: str
    """Letters, digits and dashes: the name of the CSV file."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


@final
@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim, and what was found of it."""

    text: str
    """The claim, in a sentence."""
    found: Found
    evidence: str
    """The figures that decide, in a sentence."""


def decide(low: float, high: float) -> Found:
    """Returns what the interval of a difference says of the claim that it is above zero."""
    return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


@final
@dataclass(frozen=True, kw_only=True)
class Findings:
    """The outcome of a study."""

    name: str
    question: str
    claims: tuple[Claim, ...] = ()
    charts: tuple[LineChart | BoxChart, ...] = ()
    tables: tuple[Table, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)
    """What it was measured on and with: device, runtime, threads, settings, seeds."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader of the figures should know."""
