"""Pages that open offline: the report of a run, the findings of a study."""

from tersenet.report.page import render
from tersenet.report.study import render_findings

__all__ = ["render", "render_findings"]
