"""Rate-distortion optimised levels, weighed by the diagonal of the Fisher information.

Wiedemann et al., "DeepCABAC", 2019, arXiv:1907.11900: the least sum of F_i (q_i - w_i)² +
lambda * bits, with the bits that the coder's live contexts ask for.
"""

from collections.abc import Mapping, Sequence
from math import frexp, log, sqrt
from typing import ClassVar, Final, Literal, final

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.codec import Quantised, encode_levels, rd_levels, short_step
from tersenet.core.registry import method
from tersenet.core.types import Workbench
from tersenet.encode.coded import Encoding, Quantiser, Steps
from tersenet.encode.fisher import fisher_diagonal

__all__ = [
    "RateDistortion",
    "finest_step",
    "ideal_step",
    "in_units",
    "parameters",
    "quantise_diagonal",
    "unit_of",
]

FACTORS: Final = (0.7, 1.0, 1.4)
"""Of the step that is ideal where bits are plenty: what is tried where they are not."""
TRELLIS: Final = 0.6
"""The trellis' step over the uniform one's, at equal distortion."""
USUAL: Final = 20
"""Octaves about 1 within which a tensor's largest weight lies in any usual network."""
LEAST: Final = 2.0**-90
"""The largest weight of a tensor that is quantised is at least this, or zero: below, no 32-bit
float is left for its step."""
MOST: Final = 2.0**125
"""And at most this."""
PLAIN: Final = 1e20
"""A mean F above it, or below its reciprocal, is taken as the unit of F and lambda."""


def unit_of(weights: np.ndarray) -> float:
    """What weights are measured in, so that their squares have 32-bit floats: a power of two.

    It is 1 wherever weights are of usual size, and the arithmetic the same either way.
    """
    largest = float(np.abs(weights).max()) if weights.size else 0.0
    octave = frexp(largest)[1] if largest else 0
    return 1.0 if abs(octave) <= USUAL else 2.0**octave


def in_units(fisher: Mapping[str, Tensor], weights: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Returns F of the weights in units of their tensor, as `quantise_diagonal` takes it."""
    units = {name: unit_of(own) for name, own in weights.items()}
    return {
        name: fisher[name] if unit == 1 else fisher[name].double() * unit**2
        for name, unit in units.items()
    }


def finest_step(weights: np.ndarray) -> float:
    """The step below which levels would no longer be told apart in 32-bit floats."""
    return float(np.abs(weights).max()) * 2.0**-USUAL


def ideal_step(lam: float, curvature: float, *, dependent: bool) -> float:
    """The step where one more bit is worth lambda, in nats, at many bits per weight.

    The loss of a weight is ½ F step² / 12, and falls by 2 ln 2 of itself per bit.
    """
    return sqrt(12 * lam / (log(2) * curvature)) * (TRELLIS if dependent else 1)


def quantise_diagonal(
    weights: np.ndarray, fisher: np.ndarray, *, lam: float, step: float | None, dependent: bool
) -> Quantised:
    """Levels of least ½ Σ F (q - w)² + lambda * bits, in nats, over some steps or at one.

    F is of the weights in units of `unit_of` them.
    """
    unit = unit_of(weights)
    if unit != 1:
        weights, step = weights / np.float32(unit), None if step is None else step / unit
    mean = float(fisher.mean(dtype=np.float64))
    if mean > 0 and not 1 / PLAIN < mean < PLAIN:
        fisher, lam, mean = fisher / mean, min(lam / mean, PLAIN), 1.0
    fisher = fisher.astype(np.float32, copy=False)
    largest = float(np.abs(weights).max())
    # A tensor that the output does not feel would take any step: its largest weight is enough.
    ideal = ideal_step(lam, mean, dependent=dependent) if mean > 0 else largest
    least = finest_step(weights)
    tried = (
        [step]
        if step
        else [short_step(max(min(ideal * factor, largest), least) or 1.0) for factor in FACTORS]
    )
    # What was pruned stays zero, at any price.
    fisher = np.where(weights == 0, np.float32(1e6 * mean), fisher)
    best, least = None, np.inf
    for step in map(float, map(np.float32, tried)):
        levels = rd_levels(weights, step, lam=2 * lam, fisher=fisher, dependent=dependent)
        bits = 8 * len(encode_levels(levels, dependent=dependent)) if len(tried) > 1 else 0
        cost = 0.5 * float((fisher * (levels * step - weights) ** 2).sum()) + lam * bits
        if cost < least:
            found = Quantised(levels=levels, step=step * unit, dependent=dependent)
            best, least = found, cost
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

    @property
    def idle(self) -> Mapping[str, str]:
        """Means over more than a weight are neither mixed nor moved."""
        options = () if self.fisher == "weight" else ("floor", "pooled")
        return {**super().idle, **dict.fromkeys(options, "it needs fisher: weight")}

    def quantiser(self, model: nn.Module, inputs: Sequence[Tensor], bench: Workbench) -> Quantiser:
        """Estimates F; each lambda then takes one pass over the weights and three steps."""
        bench.tick("estimating the Fisher information", 0, 1)
        generator = torch.Generator().manual_seed(self.seed)
        weights = parameters(model)
        fisher = average_fisher(
            in_units(fisher_diagonal(model, inputs, generator=generator), weights),
            weights,
            over=self.fisher,
            floor=self.floor,
            pooled=self.pooled,
        )

        def quantise(lam: float, steps: Steps | None) -> dict[str, Quantised]:
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
    """Returns the parameters that can be quantised: 32-bit floats, finite, not empty.

    Nor are those among them that are all so small or so large that a step has no 32-bit float.
    """
    found = {}
    for name, value in model.named_parameters():
        if value.dtype == torch.float32 and value.numel():
            largest = float(value.detach().abs().max())  # NaN where a weight is
            if largest == 0 or LEAST <= largest <= MOST:
                found[name] = value.detach().cpu().numpy()
    return found


def average_fisher(
    fisher: Mapping[str, Tensor],
    weights: Mapping[str, np.ndarray],
    *,
    over: str,
    floor: float,
    pooled: float = 0.0,
) -> dict[str, np.ndarray]:
    """Returns F per weight, or its mean over each tensor, or over all matrices and all vectors."""
    found = {name: fisher[name].cpu().numpy() for name in weights}
    means = {name: float(values.mean(dtype=np.float64)) for name, values in found.items()}
    network: dict[str, float] = {}
    for matrix in (True, False):
        own = [name for name in found if (found[name].ndim > 1) == matrix]
        total = sum(means[name] * found[name].size for name in own)
        network |= dict.fromkeys(own, total / max(1, sum(found[name].size for name in own)))
    if over == "weight":
        return {
            name: (
                ((1 - floor) * values + floor * means[name])
                * (network[name] / means[name] if means[name] > 0 else 1.0) ** pooled
            ).astype(values.dtype)
            for name, values in found.items()
        }
    means = network if over == "network" else means
    return {
        name: np.full(values.shape, means[name], values.dtype) for name, values in found.items()
    }
