"""An interrupt stays one, whatever becomes of it on the way.

Python raises KeyboardInterrupt wherever the program stands. Within an import it may come out as an
error of another kind, within a finaliser it is lost, and code that makes do without what failed
would take it for a failure.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from tersenet.core.host.interrupt import Noted
from tersenet.core.types import StepRecord
from tersenet.run.watch import Guarded, Watcher
from tersenet.run.watchdog import remind

__all__ = ["interruptible"]


@contextmanager
def interruptible(watch: Watcher, *, keeps: str = "") -> Iterator[Watcher]:
    """Yields `watch`, which raises at its next call if an interrupt came to nothing.

    Where signals are handled by others, or in another thread than the main one, that does not
    change. What stands still is told.

    Args:
        watch: of what is done meanwhile.
        keeps: what is kept of it, and how to go on, for whoever interrupts.

    Raises:
        KeyboardInterrupt: saying so, in place of any error after an interrupt.
    """
    said = f"interrupted: {keeps}" if keeps else "interrupted."
    if isinstance(watch, Guarded):
        watch.keep(keeps)
    with _note_interrupts() as came, remind(watch) as reminded:
        try:
            yield _Alert(reminded, came)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(said) from None
        except Exception:
            if came.is_set():
                raise KeyboardInterrupt(said) from None
            raise
        finally:
            if isinstance(watch, Guarded) and not came.is_set():
                watch.keep("")


@contextmanager
def _note_interrupts() -> Iterator[threading.Event]:
    """Gives what is set once an interrupt comes, as far as that can be known."""
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, Noted):  # the command line's
        yield handler.came
        return
    ours = threading.current_thread() is threading.main_thread()
    noted = Noted()
    if not ours or handler is not signal.default_int_handler:
        yield noted.came
        return
    signal.signal(signal.SIGINT, noted)
    try:
        yield noted.came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@final
class _Alert:
    def __init__(self, watch: Watcher, came: threading.Event) -> None:
        self.watch, self.came = watch, came

    def begin(self, index: int, count: int, name: str) -> None:
        self._check()
        self.watch.begin(index, count, name)

    def tick(self, text: str, done: int, total: int) -> None:
        self._check()
        self.watch.tick(text, done, total)

    def finish(self, record: StepRecord, *, recalled: bool) -> None:
        self.watch.finish(record, recalled=recalled)

    def _check(self) -> None:
        if self.came.is_set():
            raise KeyboardInterrupt
