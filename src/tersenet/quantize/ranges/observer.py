"""What is kept of an activation while batch after batch is seen: its ends, if nothing more."""

import torch
from torch import Tensor

from tersenet.errors import QuantizeError

__all__ = ["Observer"]


class Observer:
    """Sees batches of one activation and keeps its ends, of all samples and on average."""

    def __init__(self) -> None:
        self.min = float("inf")
        self.max = float("-inf")
        self.samples = 0
        self._lows = self._highs = 0.0

    def observe(self, x: Tensor) -> None:
        """Takes one batch into account, sample first.

        Raises:
            QuantizeError: if it holds NaN or infinity.
        """
        rows = x.flatten(1) if x.ndim > 1 else x.reshape(-1, 1)
        lows, highs = rows.amin(1), rows.amax(1)
        if not (torch.isfinite(lows).all() and torch.isfinite(highs).all()):
            raise QuantizeError("activations are NaN or infinite")
        self.min, self.max = min(self.min, float(lows.min())), max(self.max, float(highs.max()))
        self.samples += len(rows)
        self._lows += float(lows.sum())
        self._highs += float(highs.sum())

    @property
    def avg_min(self) -> float:
        """The mean over samples of each sample's least value."""
        return self._lows / self.samples

    @property
    def avg_max(self) -> float:
        """The mean over samples of each sample's largest value."""
        return self._highs / self.samples

    @property
    def constant(self) -> bool:
        """Whether only one distinct value, or none, was seen."""
        return not self.min < self.max
