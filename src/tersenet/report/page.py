"""The report: one HTML file that opens offline and runs nothing but its own script."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tersenet.report.cards import cards
from tersenet.report.headline import headline
from tersenet.report.ladder import ladder
from tersenet.report.layers import layer_table
from tersenet.report.reality import reality, reproduction
from tersenet.report.records import Records
from tersenet.report.scatter import scatter_plots
from tersenet.report.strips import strip_panels
from tersenet.run.record import RunSummary

__all__ = ["document", "render"]


def render(summary: RunSummary) -> str:
    """Returns the report of a run as one HTML document."""
    chosen = -1 if summary.verdict is None else summary.verdict.step
    records = Records(summary.steps, chosen=chosen)
    return document(
        "page.html.j2",
        name=summary.header.name,
        headline=headline(summary, records),
        cards=cards(records),
        records=records,
        rungs=ladder(records),
        scatters=scatter_plots(records),
        layers=layer_table(records),
        strips=strip_panels(records),
        reality=reality(records),
        reproduction=reproduction(summary.header),
    )


def document(template: str, **context: Any) -> str:
    """Returns one of our pages, filled in.

    It needs no network, and its content security policy forbids any: style and script are
    inlined and allowed by their hashes. Everything from the context is escaped.
    """
    style, script = _asset("style.css"), _asset("script.js")
    return (
        _environment()
        .get_template(template)
        .render(
            policy=_policy(style, script),
            style=Markup(style),  # noqa: S704 - our own file, nobody's data
            script=Markup(script),  # noqa: S704
            **context,
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tersenet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    path = files("tersenet.report") / "templates" / name
    return path.read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
