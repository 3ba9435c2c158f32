"""What a run tells whoever is watching; the command line draws it."""

from typing import Protocol, final, runtime_checkable

from tersenet.core.types import StepRecord

__all__ = ["SILENT", "Guarded", "Watcher"]


@runtime_checkable
class Watcher(Protocol):
    """Receives a run's progress."""

    def begin(self, index: int, count: int, name: str) -> None:
        """A step starts; `count` steps in all, the original's measurement being step 0."""
        ...

    def tick(self, text: str, done: int, total: int) -> None:
        """The step at hand has come `done` of `total` of the way in what `text` says."""
        ...

    def finish(self, record: StepRecord, *, recalled: bool) -> None:
        """A step is measured, or recalled from an earlier session."""
        ...


@runtime_checkable
class Guarded(Protocol):
    """What a watch may be besides: one that a process beside this one knows of."""

    @property
    def guarded(self) -> bool:
        """Whether that process is there, and tells of standstills."""
        ...

    def keep(self, sentence: str) -> None:
        """What to say, should all end now: what is kept, and how to go on."""
        ...


@final
class _Silent:
    def begin(self, index: int, count: int, name: str) -> None: ...

    def tick(self, text: str, done: int, total: int) -> None: ...

    def finish(self, record: StepRecord, *, recalled: bool) -> None: ...


SILENT: Watcher = _Silent()
