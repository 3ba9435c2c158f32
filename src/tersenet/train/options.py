"""How to descend: the options of a training, as its recipe gives them."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, final

from pydantic import Field

__all__ = ["TrainingOptions"]


@final
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to descend."""

    epochs: Annotated[float, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises to its peak."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay, per step, of an average of the weights that is handed back in their place; 0: none."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes (Szegedy et al. 2015,
    arXiv:1512.00567, section 7)."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Precision of the products in the forward pass; weights and sums stay in fp32. bf16 asks for
    hardware that computes in it, auto takes it where it is there."""
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """auto takes a GPU where PyTorch finds one."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0

    def rate(self, step: int, steps: int) -> float:
        """Returns the learning rate of one step."""
        rise = max(1, round(self.warmup * steps))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))
