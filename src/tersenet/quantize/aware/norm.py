"""Batch norm in a graph that is trained: its tensors stay where they are, under their names."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Norm"]


@final
class Norm(nn.Module):
    """Batch norm that stops following the batch after some steps.

    Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018,
    arXiv:1806.08342, section 3.2.2: towards the end the statistics of single batches are noise
    that what ships does not have, so the running ones are used and stand still.

    A negative gain would swap the ends of a filter's levels when it is folded into the filter,
    so of a norm that will be (`folded`) the gain's size is taken: give it positive, and flip the
    filter instead.
    """

    seen: Tensor
    """Steps trained so far: saved, so that training resumes exactly."""

    def __init__(self, *, momentum: float, eps: float, steps: int, folded: bool) -> None:
        super().__init__()
        self.momentum, self.eps, self.steps, self.folded = momentum, eps, steps, folded
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(
        self, x: Tensor, gain: Tensor | None, shift: Tensor | None, mean: Tensor, variance: Tensor
    ) -> Tensor:
        """Returns the normalised x; follows the batch's statistics while they are free."""
        follow = self.training and int(self.seen) < self.steps
        if self.training:
            self.seen.add_(1)
        if self.folded and gain is not None:
            gain = gain.abs()
        return functional.batch_norm(
            x, mean, variance, gain, shift, follow, self.momentum, self.eps
        )
