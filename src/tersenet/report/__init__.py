"""The report of a run: one HTML file that opens offline."""

from tersenet.report.page import render

__all__ = ["render"]
