"""Prints the scoreboard: which of the sixty systems of the mission hold, fail or are not built.

    .venv/bin/python scripts/scoreboard.py [pytest options, such as -k row_12]

Exits with 1 if a row fails or is neither of the three.
"""

import contextlib
import inspect
import io
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.markup import escape

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "scoreboard"
COLOURS = {"holds": "green", "fails": "red", "not built": "bright_black", "not run": "yellow"}


@dataclass
class Row:
    """One row, as its test tells it."""

    number: int
    title: str
    left: str | None
    """What a row that holds in part does not assert yet."""
    state: str = "not run"
    note: str = ""


class Board:
    """A pytest plugin that keeps what became of each row, and prints it as it comes."""

    def __init__(self, console: Console) -> None:
        self.rows: dict[str, Row] = {}
        self.console = console

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Runs the rows, and only them, in their order."""
        for item in items:
            found = re.match(r"test_row_(\d\d)_", item.name)
            if found and isinstance(item, pytest.Function):
                title = (inspect.getdoc(item.function) or item.name).splitlines()[0].rstrip(".")
                part = item.get_closest_marker("in_part")
                self.rows[item.nodeid] = Row(int(found[1]), title, part.args[0] if part else None)
        items[:] = sorted(
            (item for item in items if item.nodeid in self.rows),
            key=lambda item: self.rows[item.nodeid].number,
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Reads one phase of a test; a row's last word is printed after its last phase."""
        row = self.rows.get(report.nodeid)
        if row is None:
            return
        if report.when == "call" and report.passed:
            row.state = "holds"
            row.note = f"all but {row.left}" if row.left else ""
        elif report.skipped and hasattr(report, "wasxfail"):
            row.state = "not built"
        elif report.skipped:
            row.note = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        elif report.failed:
            row.state = "fails"
            row.note = report.longreprtext.strip().splitlines()[-1]
            if "XPASS" in report.longreprtext:
                row.note = "it is built: take away its mark not_built"
        if report.when == "teardown":
            self.print(row)

    def print(self, row: Row) -> None:
        """Prints one row."""
        note = f"  [dim]{escape(row.note)}[/]" if row.note else ""
        colour = COLOURS[row.state]
        self.console.print(
            f"{row.number:>3}  [{colour}]{row.state:<10}[/] {escape(row.title)}{note}",
            highlight=False,
            soft_wrap=True,
        )


def main(options: list[str]) -> int:
    """Runs the rows and prints the count; returns the exit code."""
    console = Console(file=sys.stdout)  # the true one: pytest prints to another
    board = Board(console)
    swallowed = io.StringIO()
    with contextlib.redirect_stdout(swallowed):
        code = pytest.main(["-q", "-p", "no:cacheprovider", str(FOLDER), *options], plugins=[board])
    if not board.rows:
        console.print(swallowed.getvalue())
        return int(code) or 1
    rows = board.rows.values()
    counts = Counter(row.state for row in rows)
    partly = sum(row.state == "holds" and row.left is not None for row in rows)
    text = f"{counts['holds']} hold" + (f" ({partly} in part)" if partly else "")
    text += f", {counts['fails']} fail, {counts['not built']} not built"
    text += f", {counts['not run']} not run" if counts["not run"] else ""
    console.print(f"{text}, of {len(rows)}", highlight=False)
    return 1 if counts["fails"] or counts["not run"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
