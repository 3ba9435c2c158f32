"""An average of the weights over the steps of a training.

Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim.
30(4), 1992, in the exponential form of Tarvainen, Valpola, "Mean teachers are better role
models", 2017, arXiv:1703.01780.
"""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

__all__ = ["Average"]


@final
class Average:
    """w̄ ← d w̄ + (1 − d) w after each step, of weights and of running statistics.

    Early on d is (1 + t) / (10 + t) after t steps, so that the start is soon forgotten.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in _floats(model).items()}

    @torch.no_grad()
    def follow_(self, model: nn.Module, *, step: int) -> None:
        """Takes the weights after step `step`, counted from zero, into account."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in _floats(model).items():
            self.values[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def put_in_(self, model: nn.Module) -> None:
        """Gives the network the averages in place of its weights."""
        for name, value in _floats(model).items():
            value.copy_(self.values[name])


def _floats(model: nn.Module) -> Mapping[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
