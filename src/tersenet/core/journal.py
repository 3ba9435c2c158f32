"""A journal: a file that only grows, one JSON line per event, each line a commit point.

A line torn by a crash was never committed: it is dropped when the journal is mended.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from filelock import FileLock, Timeout

from tersenet.errors import RunError

__all__ = ["Journal", "hold_folder"]


@final
class Journal:
    """The events of a journal, and how to add one."""

    def __init__(self, path: Path, *, go_on: str) -> None:
        """Reads the journal, which need not exist.

        Args:
            path: the file.
            go_on: how to go on once a disk has space again, for complaints.

        Raises:
            RunError: if a whole line of it is damaged.
        """
        self._path, self._go_on = path, go_on
        self.events: list[dict[str, Any]] = list(_read(path))

    def append(self, event: Mapping[str, Any]) -> None:
        """Adds an event and waits until it is on the disk.

        Raises:
            RunError: if it cannot be written.
            ValueError: if it is no JSON, such as NaN.
        """
        line = json.dumps(event, allow_nan=False) + "\n"
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"cannot write {self._path} ({error.strerror}): free some space there, then "
                f"{self._go_on}."
            ) from error
        self.events.append(json.loads(line))

    def mend(self) -> None:
        """Cuts off the line that a crash tore, so that the next one starts afresh."""
        if self._path.exists():
            content = self._path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                with self._path.open("r+b") as file:
                    file.truncate(whole)


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing in `folder`.

    Raises:
        RunError: if another process is at it, or it cannot be written.
    """
    # The system releases the lock when the process ends, however it ends.
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RunError(f"another process is at {folder}: wait for it to end.") from error
    except OSError as error:
        raise RunError(
            f"cannot write in {folder} ({error.strerror}): choose another folder with folder=…."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            return  # torn by a crash: the event was not committed
        try:
            yield json.loads(line)
        except ValueError as error:
            raise RunError(
                f"{path}:{number} is damaged: remove that line and all below."
            ) from error
