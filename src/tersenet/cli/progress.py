"""The live display of a run: a bar for the step at hand, a line for each step that is done."""

from types import TracebackType
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tersenet.cli.flags import in_flags
from tersenet.cli.guard import GUARD
from tersenet.cli.show import step_line
from tersenet.core.types import StepRecord

__all__ = ["Live"]


@final
class Live:
    """A `Watcher` that draws on standard error, so that standard output stays for results.

    What it is told goes to the command's guardian, too.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[text]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Live":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, index: int, count: int, name: str) -> None:
        """Starts the bar of a step."""
        self._drop()
        title = f"step {index} of {count - 1}: {name}" if count > 1 else name
        self._task = self._progress.add_task(title, total=None, text="")
        GUARD.at(title)

    def tick(self, text: str, done: int, total: int) -> None:
        """Moves the bar."""
        GUARD.tick(text, done, total)
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, text=text)

    def finish(self, record: StepRecord, *, recalled: bool) -> None:
        """Leaves a line for the finished step."""
        self._drop()
        self._console.print(step_line(record) + ("  (recalled)" if recalled else ""), markup=False)
        GUARD.at(f"after {record.name}")

    def say(self, text: str) -> None:
        """Leaves a line."""
        self._console.print(text, markup=False)

    @property
    def guarded(self) -> bool:
        """Whether a process beside this one tells of standstills."""
        return GUARD.started

    def keep(self, sentence: str) -> None:
        """Says what is kept, should all end now."""
        GUARD.keep(in_flags(sentence))

    def _drop(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
