"""The folder of a study.

study.json          which study, with which settings     (written once)
journal.jsonl       one line per measured point
findings.json       the outcome, once all points are there
NAME.csv            each of its tables
report.html         drawn from findings.json
"""

import contextlib
import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, final

from pydantic import TypeAdapter

from tersenet.core.files import make_folder, write_atomically, write_json
from tersenet.core.findings import Findings, Table
from tersenet.core.journal import Journal, hold_folder
from tersenet.errors import RunError
from tersenet.measure.device import machine

__all__ = ["StudyFolder", "open_study", "write_findings"]

_FORMAT: Final = "tersenet-study"
_VERSION: Final = 1
_FINDINGS: Final = TypeAdapter(Findings)

T = TypeVar("T")

_log = logging.getLogger(__name__)


@final
class StudyFolder:
    """An open study: points by key, each measured once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal = _journal(path)
        self._points = {event["key"]: event["value"] for event in self._journal.events}

    def point(self, key: str, measure: Callable[[], T]) -> T:
        """Returns the point kept under `key`, or measures and keeps it.

        Args:
            key: names the point within the study: '3 filter', 'stem 0.45'.
            measure: returns JSON values: numbers, strings, lists, dicts.
        """
        if key not in self._points:
            self._journal.append({"key": key, "value": measure()})
            self._points[key] = self._journal.events[-1]["value"]
        return self._points[key]

    def __contains__(self, key: str) -> bool:
        """Whether a point is measured already."""
        return key in self._points


@contextlib.contextmanager
def open_study(
    path: Path,
    *,
    name: str,
    settings: Mapping[str, Any],
    of: Mapping[str, str] | None = None,
) -> Iterator[StudyFolder]:
    """Starts a study in a new or empty folder, or goes on with the same one there.

    Args:
        path: the folder.
        name: the study's.
        settings: all that its points depend on, as JSON values.
        of: digests of what the settings only name, such as weights and data.

    Raises:
        RunError: if the folder holds something else, is at work, or cannot be written.
    """
    header = json.loads(
        json.dumps(
            {
                "format": _FORMAT,
                "version": _VERSION,
                "name": name,
                "settings": settings,
                "of": of or {},
                "machine": machine(),
            }
        )
    )
    make_folder(path)
    file = path / "study.json"
    if not file.exists() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise RunError(f"{path} holds other files: give another folder with folder=….")
    with hold_folder(path):
        if file.exists():
            _check(file, header)
        else:
            write_json(file, header)
        _journal(path).mend()
        yield StudyFolder(path)


def write_findings(path: Path, findings: Findings) -> None:
    """Writes the outcome and its tables into the study's folder."""
    write_json(path / "findings.json", _FINDINGS.dump_python(findings, mode="json"))
    for table in findings.tables:
        write_atomically(path / f"{table.name}.csv", _csv(table).encode())


def _check(file: Path, header: Mapping[str, Any]) -> None:
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise RunError(f"{file} is damaged: give another folder with folder=….") from error
    if found.get("name") != header["name"] or found.get("version") != header["version"]:
        raise RunError(f"{file.parent} holds another study: give another folder with folder=….")
    theirs, ours = found["settings"], header["settings"]
    changed = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key))
    changed += [key for key, now in header["of"].items() if found["of"].get(key) != now]
    if not changed:
        if (where := found["machine"]) != header["machine"]:
            _log.warning(
                "%s was begun on another machine (%s), not this one (%s): points that are timed "
                "from here on do not compare with those before",
                file.parent, where, header["machine"],
            )  # fmt: skip
        return
    raise RunError(
        f"{file.parent} holds this study with another {', '.join(dict.fromkeys(changed))}: give "
        "the same again to go on, or another folder with folder=…."
    )


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue()


def _journal(path: Path) -> Journal:
    return Journal(path / "journal.jsonl", go_on="run the study again in the same folder")
