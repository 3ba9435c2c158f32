"""The page of a study: its verdicts, charts and tables in one offline HTML file."""

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
    )


def _numeric(table: Table) -> list[bool]:
    """Returns for each column whether it holds numbers alone."""
    columns = zip(*table.rows, strict=True) if table.rows else ([] for _ in table.columns)
    return [all(isinstance(value, int | float | None) for value in one) for one in columns]
