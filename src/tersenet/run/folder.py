"""The run folder: everything a run is made of, so that it can be proved and resumed.

    run.json            how it began: recipe, seed, device, versions       (written once)
    journal.jsonl       one line per event; a step's line is its commit point
    steps/00-original/  plan.json, checkpoint.safetensors while training,
                        model.safetensors, manifest.json, model.onnx
    report.html

Files are written whole or not at all; only the journal grows, and a line torn by a crash is
dropped when the folder is opened again.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, final

from pydantic import TypeAdapter, ValidationError

from tersenet.core.files import make_folder, write_json
from tersenet.core.journal import Journal, hold_folder
from tersenet.core.types import StepRecord
from tersenet.errors import RunError
from tersenet.run.record import Header, RunSummary, Verdict, step_from_json, step_to_json

__all__ = ["RunFolder", "read_header", "read_run"]

_HEADER: Final = TypeAdapter(Header)
_VERDICT: Final = TypeAdapter(Verdict)
_FORMAT: Final = "tersenet-run"
_VERSION: Final = 1


@final
class RunFolder:
    """A run folder, held by this process alone until it is closed."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header
        self._journal = _journal(path, header)

    @property
    def go_on(self) -> str:
        """The call that goes on with this run."""
        return self.header.go_on(self.path)

    @classmethod
    @contextlib.contextmanager
    def create(cls, path: Path, header: Header) -> Iterator["RunFolder"]:
        """Starts a run in a new or empty folder.

        Raises:
            RunError: if the folder holds something, or cannot be written.
        """
        if path.exists() and (not path.is_dir() or any(map(_matters, path.iterdir()))):
            if not (path / "run.json").exists():
                raise RunError(f"{path} holds other files: give another folder with folder=….")
            raise RunError(
                f"{path} holds another run: give another folder with folder=…, or finish that one "
                f"with tersenet.resume({str(path)!r})."
            )
        make_folder(path)
        with hold_folder(path):
            value = {
                "format": _FORMAT,
                "version": _VERSION,
                **_HEADER.dump_python(header, mode="json"),
            }
            write_json(path / "run.json", value)
            yield cls(path, header)

    @classmethod
    @contextlib.contextmanager
    def resume(cls, path: Path) -> Iterator["RunFolder"]:
        """Opens a run to go on with it, dropping what a crash tore: half lines, half files.

        Raises:
            RunError: if there is no run, or another process is at it.
        """
        header = read_header(path)
        with hold_folder(path):
            _journal(path, header).mend()
            for torn in path.rglob(".*.partial"):
                torn.unlink(missing_ok=True)
            yield cls(path, header)

    def step(self, index: int, name: str) -> Path:
        """Returns the folder of one step, made if need be."""
        folder = self.path / "steps" / f"{index:02d}-{name.replace(' ', '-')}"
        make_folder(folder)
        return folder

    def recall(self, index: int) -> StepRecord | None:
        """Returns a step that an earlier session finished, or None."""
        for event in self._journal.events:
            if event["event"] == "step" and event["index"] == index:
                return step_from_json(event["step"])
        return None

    def commit(self, index: int, record: StepRecord, *, wall_seconds: float) -> None:
        """Journals a finished step: from here on it is never done again."""
        value = step_to_json(record)
        self._journal.append(
            {"event": "step", "index": index, "wall_seconds": wall_seconds, "step": value}
        )

    @property
    def verdict(self) -> Verdict | None:
        """The verdict, once the run has finished."""
        return _find_verdict(self._journal.events)

    @property
    def wall_seconds(self) -> float:
        """Spent on the finished steps, over all sessions."""
        return sum(
            event["wall_seconds"] for event in self._journal.events if event["event"] == "step"
        )

    def finish(self, verdict: Verdict) -> None:
        """Journals the verdict."""
        self._journal.append({"event": "verdict", **_VERDICT.dump_python(verdict, mode="json")})

    def adopt(self, files: Mapping[str, str]) -> None:
        """Copies a step's files to the top of the folder: what the run hands back."""
        for name in files.values():
            source, target = self.path / name, self.path / Path(name).name
            aside = target.with_name(f".{target.name}.partial")
            try:
                shutil.copyfile(source, aside)
                aside.replace(target)
            except OSError as error:
                aside.unlink(missing_ok=True)
                raise RunError(
                    f"cannot write {target} ({error.strerror}): free some space there."
                ) from error

    def summary(self) -> RunSummary:
        """Returns the run as it stands."""
        return _summary(self.header, self._journal.events)


def read_run(path: Path) -> RunSummary:
    """Reads a run folder without holding it.

    Raises:
        RunError: if there is no run, or it is damaged.
    """
    header = read_header(path)
    summary = _summary(header, _journal(path, header).events)
    if not summary.steps:
        raise RunError(f"{path} has no finished step yet: go on with {header.go_on(path)}.")
    return summary


def _summary(header: Header, events: list[dict[str, Any]]) -> RunSummary:
    steps = [step_from_json(event["step"]) for event in events if event["event"] == "step"]
    return RunSummary(header=header, steps=tuple(steps), verdict=_find_verdict(events))


def _find_verdict(events: list[dict[str, Any]]) -> Verdict | None:
    for event in events:
        if event["event"] == "verdict":
            return _VERDICT.validate_python({k: v for k, v in event.items() if k != "event"})
    return None


def read_header(path: Path) -> Header:
    """Reads how a run began.

    Raises:
        RunError: if there is no run, or it is damaged.
    """
    file = path / "run.json"
    if not file.is_file():
        raise RunError(f"{path} holds no run: start one with tersenet.compress(…).")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        form, version = value.pop("format", None), value.pop("version", None)
        if form != _FORMAT or version != _VERSION:
            raise RunError(
                f"{file} is {form!r} version {version!r}, not {_FORMAT!r} version {_VERSION}: "
                "read it with the tersenet that wrote it."
            )
        return _HEADER.validate_python(value)
    except (OSError, ValueError, ValidationError) as error:
        raise RunError(f"{file} is damaged ({type(error).__name__}): start a new run.") from error


def _journal(path: Path, header: Header) -> Journal:
    return Journal(path / "journal.jsonl", go_on=f"go on with {header.go_on(path)}")


def _matters(path: Path) -> bool:
    # What a run killed in its first moment leaves is nobody's.
    return path.name != ".lock" and not path.name.endswith(".partial")
