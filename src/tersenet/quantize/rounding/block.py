"""Up or down, learned over a residual block, with the steps of its activations.

Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", 2021,
arXiv:2102.05426, without its weighting by the Fisher information; Wei et al., "QDrop", 2022,
arXiv:2203.05740.
"""

from typing import ClassVar, Literal, final

from pydantic.dataclasses import dataclass

from tersenet.quantize.rounding.base import ROUNDINGS
from tersenet.quantize.rounding.learned import LearnedRounding

__all__ = ["BlockRounding"]


@final
@ROUNDINGS.register("block")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class BlockRounding(LearnedRounding):
    """Keeps what each block computes: for few bits of weights and activations, too."""

    over: ClassVar[Literal["layer", "block"]] = "block"
