"""What a command tells the process that watches over it; `core.vigil` is that process."""

import json
import os
import select
import signal
import subprocess
import sys
from typing import Any, Final, final

from tersenet.core.host import vigil
from tersenet.core.host.interrupt import Noted, handle_once, hold_interrupts

__all__ = ["GUARD", "Guard"]

_LONGEST: Final = getattr(select, "PIPE_BUF", 512)
"""Bytes of a line that a pipe takes as one: an interrupt never stands within it."""


@final
class Guard:
    """Starts the guardian of this process and tells it what is being done.

    Until it is started, and where it cannot be, telling does nothing.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._handler: Noted | None = None
        self._title = ""

    @property
    def started(self) -> bool:
        """Whether a guardian tells of standstills."""
        return self._process is not None

    @property
    def interrupted(self) -> bool:
        """Whether an interrupt came, whatever it was made of on its way."""
        return self._handler is not None and self._handler.came.is_set()

    def start(self, title: str) -> None:
        """Starts the guardian; an interrupt ends this process within seconds from here on."""
        if not hasattr(signal, "pthread_sigmask"):  # where pipes cannot be waited for
            return
        read, write = os.pipe()
        os.set_blocking(write, False)
        command = [sys.executable, "-I", "-S", vigil.__file__, str(os.getpid())]
        # Of several processes that train together, one tells.
        after = vigil.AFTER_SECONDS if os.environ.get("RANK", "0") == "0" else float("inf")
        waits = [str(after), str(vigil.PATIENCE_SECONDS)]
        try:
            with hold_interrupts():
                self._process = subprocess.Popen(
                    command + waits, stdin=read, stdout=subprocess.DEVNULL
                )
        except OSError:  # no more processes: then without
            os.close(write)
            return
        finally:
            os.close(read)
        self._pipe = write
        # Where interrupts are ignored, as in a shell's background, they stay so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handler = Noted()
            handle_once(self._handler)
            signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self.at(title)

    def at(self, title: str, text: str = "", done: int = 0, total: int = 0) -> None:
        """Tells of progress."""
        self._title = title
        self._tell("at", title[:200], text[:200], done, total)

    def tick(self, text: str, done: int, total: int) -> None:
        """Tells of progress within what `at` named."""
        self.at(self._title, text, done, total)

    def keep(self, sentence: str) -> None:
        """What to say of what is kept, and how to go on, should all end now."""
        self._tell("keep", sentence)

    def said(self) -> None:
        """That a person was told of the end already."""
        self._tell("said")

    def stop(self) -> None:
        """Lets the guardian go; after an interrupt it stays until this process has really gone."""
        if self._process is None or self.interrupted:
            return
        self._tell("bye")
        if self._handler is not None:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._handler = None
        os.close(self._pipe)
        self._process.wait()
        self._process = None

    def _tell(self, *values: Any) -> None:
        if self._process is None:
            return
        line = json.dumps(values).encode() + b"\n"
        if len(line) > _LONGEST:
            return
        try:
            os.write(self._pipe, line)
        except OSError:  # it is gone or behind: what it does is no condition of the work
            return


GUARD: Final = Guard()
"""The one of this process; `main` starts it."""
