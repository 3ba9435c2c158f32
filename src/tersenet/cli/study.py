"""`tersenet study NAME`: one thin command per study. Killed and run again, each goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cyclopts import App, Parameter

from tersenet.core.findings import Findings

__all__ = ["study"]

MET: Final = 0

study = App(
    name="study",
    help="Answer a question by many measurements, resumably, with a verdict and a page of plots.",
    result_action="return_value",
    default_parameter=Parameter(negative=()),
)


def conducted(
    name: str,
    run: Callable[[Path, Callable[[str, int, int], None]], Findings],
    *,
    out: Path | None,
    json: bool,
) -> int:
    """Runs a study in its folder, studies/NAME by default, and shows what it found."""
    from tersenet import api
    from tersenet.cli.progress import Live
    from tersenet.cli.show import show_findings

    folder = out or Path("studies") / name
    with Live(quiet=json) as live:
        live.begin(0, 1, f"study {name}")
        findings = api.conduct(lambda: run(folder, live.tick), folder)
    show_findings(findings, folder, json=json)
    return MET
