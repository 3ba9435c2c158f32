"""Tells of a standstill: a thread beside a run that speaks when nothing has moved for a while."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

from tersenet.core.host import vigil
from tersenet.core.host.vigil import Vigil, describe
from tersenet.core.types import StepRecord
from tersenet.run.watch import Guarded, Watcher

__all__ = ["remind"]

_LOG: Final = logging.getLogger(__name__)


@contextmanager
def remind(watch: Watcher) -> Iterator[Watcher]:
    """Yields `watch`, beside which a warning is logged when a minute brings no call of it.

    Python prints such warnings on standard error where nobody asked for anything else. A watch
    that is `Guarded` is left as it is: the process beside it tells, and sees more, since a native
    call may keep this process's threads from running.
    """
    if isinstance(watch, Guarded) and watch.guarded:
        yield watch
        return
    # As logging does by itself, but on the stream as it is now: exporters' talk is kept off the
    # other one while they work, and they may be what stands still.
    own = None if _LOG.hasHandlers() else logging.StreamHandler()
    reminder = _Reminder(watch)
    thread = threading.Thread(target=reminder.run, name="tersenet-watchdog", daemon=True)
    if own is not None:
        _LOG.addHandler(own)
    thread.start()
    try:
        yield reminder
    finally:
        reminder.over.set()
        thread.join()
        if own is not None:
            _LOG.removeHandler(own)


@final
class _Reminder:
    def __init__(self, watch: Watcher) -> None:
        self.watch, self.title = watch, "before the first step"
        self.vigil = Vigil(vigil.AFTER_SECONDS, what=self.title)
        self.over = threading.Event()

    def run(self) -> None:
        # Looked at more often than is told: what moves meanwhile is due earlier again.
        while not self.over.wait(min(self.vigil.remaining, vigil.AFTER_SECONDS / 4)):
            if sentence := self.vigil.told():
                _LOG.warning("tersenet: %s", sentence)

    def begin(self, index: int, count: int, name: str) -> None:
        self.title = f"step {index} of {count - 1}: {name}" if count > 1 else name
        self.vigil.at(self.title)
        self.watch.begin(index, count, name)

    def tick(self, text: str, done: int, total: int) -> None:
        self.vigil.at(describe(self.title, text, done, total))
        self.watch.tick(text, done, total)

    def finish(self, record: StepRecord, *, recalled: bool) -> None:
        self.vigil.at(f"after {record.name}")
        self.watch.finish(record, recalled=recalled)
