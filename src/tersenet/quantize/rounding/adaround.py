"""Up or down, learned layer by layer.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020,
arXiv:2004.10568.
"""

from typing import final

from pydantic import Field
from pydantic.dataclasses import dataclass

from tersenet.quantize.rounding.base import ROUNDINGS, Piece, Rounded, Rounding
from tersenet.quantize.rounding.learned import reconstruct

__all__ = ["AdaRound"]


@final
@ROUNDINGS.register("adaround")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class AdaRound(Rounding):
    """Keeps what each layer computes: for 4 bits, where minutes are there."""

    steps: int = Field(default=400, ge=1)
    """For each layer."""
    drop: float = Field(default=0.5, ge=0, lt=1)
    """Chance of an activation to stay float in a step (QDrop)."""
    step_rate: float = Field(default=1e-3, ge=0)
    """Of Adam, on the logarithms of activations' steps; 0 leaves them."""

    def round(self, piece: Piece) -> Rounded:
        """Returns the learned rounding."""
        return reconstruct(piece, steps=self.steps, drop=self.drop, step_rate=self.step_rate)
