r"""Watches over what takes long: tells of a standstill, and ends what an interrupt does not end.

Python runs a signal's handler only when the interpreter gets control again, and a native call
that never returns may hold its lock as well: then no handler, timer or thread of Python runs. So
a command is watched by a process of its own, which runs this file by its path, with the standard
library alone. On one pipe it reads

    ["at", …]\n  ["keep", …]\n  ["said"]\n  ["bye"]\n     what the command is at, as JSON
    \x02                                                  an interrupt

the latter written by the C part of Python's signal handling (`signal.set_wakeup_fd`), which needs
no lock. A run loses nothing by being ended so: its files are whole or absent, and a step counts
from its line in the journal on.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final, final

__all__ = ["AFTER_SECONDS", "PATIENCE_SECONDS", "Vigil", "describe"]

AFTER_SECONDS: Final = 60.0
"""Without progress, until it is told; then each time twice as long."""
PATIENCE_SECONDS: Final = 5.0
"""After an interrupt, until the command is ended from outside."""
INTERRUPT: Final = bytes([signal.SIGINT])
_POLL_SECONDS: Final = 5.0
_GRACE_SECONDS: Final = 1.0
"""For a process to go once it is told to by a signal that it does not handle."""


@final
class Vigil:
    """What is being done, since when, and when to speak of it next."""

    def __init__(self, after: float, *, what: str = "") -> None:
        self._after = after
        self.at(what)

    def at(self, what: str) -> None:
        """Notes progress."""
        self._what, self._clock = what, time.localtime()
        self._began, self._wait = time.monotonic(), self._after

    @property
    def remaining(self) -> float:
        """Seconds until there is something to tell, if nothing moves."""
        return max(0.0, self._began + self._wait - time.monotonic())

    def told(self) -> str | None:
        """Returns the sentence that is due, if one is."""
        if self.remaining > 0:
            return None
        still = time.monotonic() - self._began
        self._wait = 2 * max(still, self._wait)
        since = time.strftime("%H:%M:%S", self._clock)
        length = f"{still:.0f}" if still >= 10 else f"{still:.1f}"
        return f"no progress for {length} s, since {since}: {self._what}."


def describe(title: str, text: str = "", done: int = 0, total: int = 0) -> str:
    """Returns what is being done in a few words."""
    text = " ".join(text.split())
    part = f"{text} ({done} of {total})" if text and total > 1 else text
    return ", ".join(words for words in (title, part) if words)


def descendants(pid: int) -> list[int]:
    """Returns the children of a process, theirs, and so on."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(number) for number in (task / "children").read_text().split()]
    return found + [process for child in found for process in descendants(child)]


@final
class _Guardian:
    """The process beside a command."""

    def __init__(self, parent: int, after: float, patience: float) -> None:
        self.parent, self.patience = parent, patience
        self.vigil = Vigil(after)
        self.keep, self.said, self.done = "", False, False
        self.ends = float("inf")
        """When the command is ended, by the monotonic clock."""
        self.rest = b""

    def watch(self) -> None:
        while os.getppid() == self.parent:
            until = self.ends - time.monotonic()
            wait = min(self.vigil.remaining if until == float("inf") else until, _POLL_SECONDS)
            ready, _, _ = select.select([0], [], [], max(0.0, wait))
            data = os.read(0, 1 << 16) if ready else None
            if data == b"":
                break
            if data:
                self.hear(data)
            if time.monotonic() >= self.ends:
                self.end()
                return
            if self.ends == float("inf") and (sentence := self.vigil.told()):
                how = " Ctrl-C ends it, and keeps what is finished." if self.keep else ""
                self.say(sentence + how)
        if not self.done:
            self.farewell()

    def hear(self, data: bytes) -> None:
        # Writes to a pipe are whole: an interrupt stands between lines.
        for _ in range(data.count(INTERRUPT)):
            # The first one is for the command itself, the second is for a person in a hurry.
            wait = self.patience if self.ends == float("inf") else 0.0
            self.ends = min(self.ends, time.monotonic() + wait)
        *lines, self.rest = (self.rest + data.replace(INTERRUPT, b"")).split(b"\n")
        for line in lines:
            self.take(*json.loads(line))

    def take(self, kind: str, *values: Any) -> None:
        if kind == "at":
            self.vigil.at(describe(*values))
        elif kind == "keep":
            (self.keep,) = values
        elif kind == "said":
            self.said = True
        else:
            self.done = True

    def end(self) -> None:
        """Ends the command and whatever it started."""
        rest = [process for process in descendants(self.parent) if process != os.getpid()]
        self.farewell()
        # By the interrupt itself, whose handler is off after the first: so a shell says 130.
        for number in (signal.SIGINT, signal.SIGKILL):
            if os.getppid() == self.parent:
                os.kill(self.parent, number)
            until = time.monotonic() + _GRACE_SECONDS
            while os.getppid() == self.parent and time.monotonic() < until:
                time.sleep(0.01)
        for child in rest:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def farewell(self) -> None:
        if self.said:
            return
        if self.ends < float("inf"):
            self.say(f"interrupted: {self.keep}" if self.keep else "interrupted.")
        elif self.keep:
            self.say(f"ended by the system, as where memory is short: {self.keep}")

    def say(self, text: str) -> None:
        lead = "\r\x1b[K" if os.isatty(2) else ""  # over the bar, which is drawn again below
        with contextlib.suppress(OSError):
            os.write(2, f"{lead}tersenet: {text}\n".encode())


def main() -> None:
    """Runs as the guardian of the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent, after, patience = sys.argv[1:4]
    _Guardian(int(parent), float(after), float(patience)).watch()


if __name__ == "__main__":
    main()
