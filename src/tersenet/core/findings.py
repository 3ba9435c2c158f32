"""What a study hands back: a question, measured points, and a verdict on each claim.

Plain data, so that it is kept as JSON, its tables as CSV, and drawn by the report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

__all__ = ["BoxChart", "Findings", "LineChart", "Samples", "Series", "Table", "Verdict"]


@final
@dataclass(frozen=True, kw_only=True)
class Series:
    """One line, or one set of points, of a chart."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    """Lower ends of intervals around y, one per point; empty where there are none."""
    high: tuple[float, ...] = ()


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
    y_log: bool = False
    note: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class Samples:
    """The values behind one box of a box plot."""

    name: str
    """Under the box; neighbours of one name share it."""
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
    note: str = ""


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
class Verdict:
    """What was found of one claim."""

    claim: str
    found: Literal["holds", "does not hold", "undecided"]
    evidence: str
    """In a sentence, with the figures that decide."""


@final
@dataclass(frozen=True, kw_only=True)
class Findings:
    """The outcome of a study."""

    name: str
    question: str
    verdicts: tuple[Verdict, ...] = ()
    charts: tuple[LineChart | BoxChart, ...] = ()
    tables: tuple[Table, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)
    """On what it was measured: device, runtime, threads, settings, seeds."""
    notes: tuple[str, ...] = ()
