"""Up or down, learned over a residual block, with the steps of its activations.

Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", 2021,
arXiv:2102.05426, without its weighting by the Fisher information; Wei et al., "QDrop", 2022,
arXiv:2203.05740.
"""

from typing import ClassVar, Literal, final

from pydantic import Field
from pydantic.dataclasses import dataclass

from tersenet.quantize.rounding.base import ROUNDINGS, Piece, Rounded, Rounding
from tersenet.quantize.rounding.learned import reconstruct

__all__ = ["BlockRounding"]


@final
@ROUNDINGS.register("block")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class BlockRounding(Rounding):
    """Keeps what each block computes: for few bits of weights and activations, too."""

    over: ClassVar[Literal["layer", "block"]] = "block"

    steps: int = Field(default=400, ge=1)
    """For each block."""
    drop: float = Field(default=0.5, ge=0, lt=1)
    """Chance of an activation to stay float in a step (QDrop)."""
    step_rate: float = Field(default=1e-3, ge=0)
    """Of Adam, on the logarithms of activations' steps; 0 leaves them."""

    def round(self, piece: Piece) -> Rounded:
        """Returns the learned rounding."""
        return reconstruct(piece, steps=self.steps, drop=self.drop, step_rate=self.step_rate)
