"""An interrupt stays one, whatever becomes of it on the way.

Python raises KeyboardInterrupt wherever the program stands. Within an import it may come out as an
error of another kind, within a finaliser it is lost, and code that makes do without what failed
would take it for a failure.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final

from tersenet.core.types import StepRecord
from tersenet.run.watch import Watch

__all__ = ["interruptible"]


@contextmanager
def interruptible(watch: Watch) -> Iterator[Watch]:
    """Yields `watch`, which raises at its next call if an interrupt came to nothing.

    Where signals are handled by others, or in another thread than the main one, nothing changes.

    Raises:
        KeyboardInterrupt: in place of any error after an interrupt.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield watch
        return
    came = threading.Event()

    def interrupted(number: int, frame: FrameType | None) -> None:
        came.set()
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield _Alert(watch, came)
    except Exception:
        if came.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@final
class _Alert:
    def __init__(self, watch: Watch, came: threading.Event) -> None:
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
