"""What is kept of an activation while batch after batch is seen: at the least, its ends."""

import numpy as np
from torch import Tensor

from tersenet.errors import QuantizeError

__all__ = ["Observer"]


class Observer:
    """Sees batches of one activation and keeps its least and largest value."""

    def __init__(self) -> None:
        self.min = float("inf")
        self.max = float("-inf")

    def observe(self, x: Tensor) -> None:
        """Takes one batch into account, sample first.

        Raises:
            QuantizeError: if it holds NaN or infinity.
        """
        low, high = (float(end) for end in x.aminmax())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise QuantizeError("activations are NaN or infinite")
        self.min, self.max = min(self.min, low), max(self.max, high)

    @property
    def constant(self) -> bool:
        """Whether only one distinct value, or none, was seen."""
        return not self.min < self.max
