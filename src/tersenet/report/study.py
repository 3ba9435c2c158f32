"""The page of a study: its verdicts, charts and tables in one offline HTML file."""

import math

from tersenet.core.findings import Findings, Table
from tersenet.report.charts import draw
from tersenet.report.page import document

__all__ = ["render_findings"]


def render_findings(findings: Findings) -> str:
    """Returns the page of a study as one HTML document, as offline and as safe as a report."""
    return document(
        "study.html.j2",
        findings=findings,
        charts=[draw(chart) for chart in findings.charts],
        numeric=[_numeric(table) for table in findings.tables],
        shown=_cell,
    )


def _cell(value: str | int | float | None) -> str:
    """Returns a cell's text: four figures tell readings apart, and the CSV has them all."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e4 or not math.isfinite(value) else f"{value:.0f}"


def _numeric(table: Table) -> list[bool]:
    """Returns for each column whether it holds numbers alone."""
    columns = zip(*table.rows, strict=True) if table.rows else ([] for _ in table.columns)
    return [all(isinstance(value, int | float | None) for value in column) for column in columns]
