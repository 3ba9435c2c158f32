"""What a training leaves behind to be plotted: a CSV always, TensorBoard's files when asked."""

import csv
import io
import time
from pathlib import Path
from typing import Any, Final, final

from tersenet.core.files import write_atomically
from tersenet.errors import RunError

__all__ = ["TrainingLog"]

COLUMNS: Final = ("epoch", "step", "loss", "learning_rate", "seconds")


@final
class TrainingLog:
    """One row for each epoch; a training that goes on writes on where its checkpoint stands."""

    def __init__(self, folder: Path, *, tensorboard: bool) -> None:
        """Opens the log of a training's folder.

        Raises:
            RunError: if TensorBoard is asked for and not installed.
        """
        self.path = folder / "metrics.csv"
        self._writer = _writer(folder / "tensorboard") if tensorboard else None
        self._started = time.monotonic()

    def epoch(self, epoch: int, *, step: int, loss: float, learning_rate: float) -> None:
        """Writes one epoch's row; `seconds` is what this session spent on it."""
        now = time.monotonic()
        seconds, self._started = now - self._started, now
        row = (epoch, step, repr(loss), repr(learning_rate), f"{seconds:.1f}")
        # What was trained after the last checkpoint is trained again, and stands here already.
        rows = [row for row in self._rows() if int(row[0]) < epoch]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows, row])
        write_atomically(self.path, text.getvalue().encode())
        if self._writer:
            self._writer.add_scalar("loss", loss, epoch)
            self._writer.add_scalar("learning rate", learning_rate, epoch)

    def close(self, *, metric: str, score: float, epoch: int) -> None:
        """Adds the score at the end of the training, and writes out what is still held back."""
        if self._writer:
            self._writer.add_scalar(metric, score, epoch)
            self._writer.close()

    def _rows(self) -> list[list[str]]:
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            return list(csv.reader(file))[1:]


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RunError(
            "tensorboard=True needs the package tensorboard, which is not installed: install "
            "'tersenet[tensorboard]', or read metrics.csv, which is written always."
        ) from error
    return SummaryWriter(str(folder))
