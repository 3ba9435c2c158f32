"""What every benchmark here does alike.

A script compares with a named peer or floor, side by side and interleaved. It prints a table,
writes its figures with `--json FILE` as a list of `{name, value, unit, against, target, met}`,
and has `--quick` for a smoke form within a minute or two, whose figures are not to be quoted.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from rich.console import Console
from rich.table import Table

from tersenet.core.files import write_json

__all__ = ["Figure", "arguments", "publish"]

# A benchmark measures: nothing that was timed before is taken as it was.
os.environ["TERSENET_TIMINGS"] = "off"


@final
@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure that a benchmark found."""

    name: str
    value: float | None
    """None where it could not be measured."""
    unit: str
    against: str | None
    """The peer or floor that the value is compared with."""
    target: float | None = None
    """What an issue or the documentation promises."""
    at_most: bool = False
    """Whether the target is a most, instead of a least."""
    detail: str = ""
    """For the table alone: an interval, a sample count, why there is no value."""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one. What is not measured is not met."""
        if self.target is None:
            return None
        if self.value is None:
            return False
        return bool(self.value <= self.target if self.at_most else self.value >= self.target)

    def as_json(self) -> dict[str, str | float | bool | None]:
        """Returns the figure as the files hold it."""
        return {
            "name": self.name,
            "value": None if self.value is None else float(self.value),
            "unit": self.unit,
            "against": self.against,
            "target": self.target,
            "met": self.met,
        }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the options that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="a smoke form, not to be quoted")
    return parser


def publish(
    title: str, figures: Sequence[Figure], *, json_file: Path | None, notes: Sequence[str] = ()
) -> None:
    """Prints the figures as a table, with notes below, and writes them where asked."""
    table = Table(title=title, title_justify="left")
    for heading in ("figure", "value", "", "against", "target", "met"):
        table.add_column(heading, justify="right" if heading in ("value", "target") else "left")
    for one in figures:
        relation = "≤" if one.at_most else "≥"
        table.add_row(
            one.name,
            "not measured" if one.value is None else f"{one.value:.4g} {one.unit}".rstrip(),
            one.detail,
            one.against or "",
            "" if one.target is None else f"{relation} {one.target:g}",
            {None: "", True: "[green]yes[/]", False: "[red]no[/]"}[one.met],
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log should not wrap at the width of no screen
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    if json_file is not None:
        write_json(json_file, [one.as_json() for one in figures])
        console.print(f"figures written to {json_file}", highlight=False)
