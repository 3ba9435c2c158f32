"""What a run tells whoever is watching; the command line draws it."""

from typing import Protocol, final, runtime_checkable

from tersenet.core.types import StepRecord

__all__ = ["SILENT", "Watch"]


@runtime_checkable
class Watch(Protocol):
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


@final
class _Silent:
    def begin(self, index: int, count: int, name: str) -> None: ...

    def tick(self, text: str, done: int, total: int) -> None: ...

    def finish(self, record: StepRecord, *, recalled: bool) -> None: ...


SILENT: Watch = _Silent()
