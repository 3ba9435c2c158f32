"""Conducting a study. Importing this finds all studies, and what they need."""

from collections.abc import Callable
from pathlib import Path

from tersenet.core.files import write_atomically
from tersenet.core.findings import Findings
from tersenet.core.types import Tick
from tersenet.report import render_findings
from tersenet.run import SILENT, Watcher, interruptible
from tersenet.study import write_findings

__all__ = ["conduct"]


def conduct(
    study: Callable[[Tick], Findings], folder: Path, *, watch: Watcher = SILENT
) -> Findings:
    """Runs a study that keeps its points in `folder`, and writes its findings and page there.

    The study is given what to tell its progress to.

    Raises:
        TersenetError: as the study.
        KeyboardInterrupt: saying that the points measured so far are kept.
    """
    keeps = (
        f"the points measured so far are kept, run it again with folder={str(folder)!r} to go on."
    )
    with interruptible(watch, keeps=keeps) as alert:
        findings = study(alert.tick)
    write_findings(folder, findings)
    write_atomically(folder / "report.html", render_findings(findings).encode())
    return findings
