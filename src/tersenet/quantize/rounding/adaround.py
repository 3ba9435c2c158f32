"""Up or down, learned layer by layer.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020,
arXiv:2004.10568.
"""

from typing import final

from pydantic.dataclasses import dataclass

from tersenet.quantize.rounding.base import ROUNDINGS
from tersenet.quantize.rounding.learned import LearnedRounding

__all__ = ["AdaRound"]


@final
@ROUNDINGS.register("adaround")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class AdaRound(LearnedRounding):
    """Keeps what each layer computes: for 4 bits, where minutes are there."""
