"""Rate-distortion optimised levels, weighed by the diagonal of the Fisher information.

Wiedemann et al., "DeepCABAC", 2019, arXiv:1907.11900: the least sum of F_i (q_i - w_i)² +
lambda * bits, with the bits that the coder's live contexts ask for.
"""

from collections.abc import Mapping, Sequence
from math import log, sqrt
from typing import ClassVar, Final, Literal, final

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.codec import Quantised, encode_levels, rd_levels, short_step
from tersenet.core.registry import method
from tersenet.core.types import Workbench
from tersenet.encode.coded import Encoding, Quantiser, Step
from tersenet.encode.fisher import fisher_diagonal

__all__ = ["RateDistortion", "ideal_step", "quantise_diagonal"]

FACTORS: Final = (0.7, 1.0, 1.4)
"""Of the step that is ideal where bits are plenty: what is tried where they are not."""
TRELLIS: Final = 0.6
"""The trellis' step over the uniform one's, at equal distortion."""


def ideal_step(lam: float, curvature: float, *, dependent: bool) -> float:
    """The step where one more bit is worth lambda, in nats, at many bits per weight.

    The loss of a weight is ½ F step² / 12, and falls by 2 ln 2 of itself per bit.
    """
    return sqrt(12 * lam / (log(2) * curvature)) * (TRELLIS if dependent else 1)


def quantise_diagonal(
    weights: np.ndarray, fisher: np.ndarray, *, lam: float, step: float | None, dependent: bool
) -> Quantised:
    """Levels of least ½ Σ F (q - w)² + lambda * bits, in nats, over some steps or at one."""
    mean = float(fisher.mean(dtype=np.float64))
    largest = float(np.abs(weights).max())
    # A tensor that the output does not feel would take any step: its largest weight is enough.
    ideal = ideal_step(lam, mean, dependent=dependent) if mean > 0 else largest
    tried = [step] if step else [short_step(min(ideal * one, largest) or 1.0) for one in FACTORS]
    # What was pruned stays zero, at any price.
    fisher = np.where(weights == 0, np.float32(1e6 * mean), fisher)
    best, least = None, np.inf
    for one in map(float, map(np.float32, tried)):
        levels = rd_levels(weights, one, lam=2 * lam, fisher=fisher, dependent=dependent)
        bits = 8 * len(encode_levels(levels, dependent=dependent)) if len(tried) > 1 else 0
        cost = 0.5 * float((fisher * (levels * one - weights) ** 2).sum()) + lam * bits
        if cost < least:
            best, least = Quantised(levels=levels, step=one, dependent=dependent), cost
    assert best is not None
    return best


@final
@method("rd")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class RateDistortion(Encoding):
    """Each weight pays for its own error: F times its square, against its bits.

    Use it where a layer's errors cannot make up for each other, or to compare with
    `feedback`, which is smaller.
    """

    name: ClassVar[str]

    fisher: Literal["weight", "layer", "network"] = "weight"
    """What F is a mean over: one weight, all of a tensor, all of the network (plain
    distortion)."""
    floor: float = Field(default=0.5, ge=0, le=1)
    """Share of its tensor's mean in each weight's F. From some hundred samples F is heavy in
    its tails: weights that none of them moved would cost nothing to destroy."""
    pooled: float = Field(default=0.5, ge=0, le=1)
    """How far `weight` moves the mean of each tensor to that of the network, geometrically: 1
    compares weights within a tensor alone. At few bits errors leave the range of the quadratic
    form, and tensors that F calls insensitive get too few."""
    dependent: bool = True
    """Levels along the 8-state trellis."""

    def quantiser(self, model: nn.Module, inputs: Sequence[Tensor], bench: Workbench) -> Quantiser:
        """Estimates F; each lambda then takes one pass over the weights and three steps."""
        bench.tick("estimating the Fisher information", 0, 1)
        generator = torch.Generator().manual_seed(self.seed)
        weights = parameters(model)
        fisher = averaged(
            fisher_diagonal(model, inputs, generator=generator),
            weights,
            over=self.fisher,
            floor=self.floor,
            pooled=self.pooled,
        )

        def quantise(lam: float, steps: Step | None) -> dict[str, Quantised]:
            return {
                name: quantise_diagonal(
                    own,
                    fisher[name],
                    lam=lam,
                    step=steps[name] if steps else None,
                    dependent=self.dependent,
                )
                for name, own in weights.items()
            }

        return quantise


def parameters(model: nn.Module) -> dict[str, np.ndarray]:
    """Returns the parameters that can be quantised: 32-bit floats, finite, not empty."""
    return {
        name: value.detach().cpu().numpy()
        for name, value in model.named_parameters()
        if value.dtype == torch.float32 and value.numel() and torch.isfinite(value).all()
    }


def averaged(
    fisher: Mapping[str, Tensor],
    weights: Mapping[str, np.ndarray],
    *,
    over: str,
    floor: float,
    pooled: float = 0.0,
) -> dict[str, np.ndarray]:
    """Returns F per weight, or its mean over each tensor, or over all matrices and all vectors."""
    found = {name: fisher[name].cpu().numpy() for name in weights}
    means = {name: float(one.mean(dtype=np.float64)) for name, one in found.items()}
    network: dict[str, float] = {}
    for matrix in (True, False):
        own = [name for name in found if (found[name].ndim > 1) == matrix]
        total = sum(means[name] * found[name].size for name in own)
        network |= dict.fromkeys(own, total / max(1, sum(found[name].size for name in own)))
    if over == "weight":
        return {
            name: (
                ((1 - floor) * one + floor * means[name])
                * (network[name] / means[name] if means[name] > 0 else 1.0) ** pooled
            ).astype(np.float32)
            for name, one in found.items()
        }
    means = network if over == "network" else means
    return {name: np.full(one.shape, means[name], np.float32) for name, one in found.items()}
