"""Are weights that are worth their bits better than rounded ones? Loss against bits, both ways.

Wiedemann et al., "DeepCABAC", 2019, arXiv:1907.11900: levels of least Σ F (q - w)² + lambda *
bits beside uniform quantisation, through the same coder. The loss is the divergence of the
network's output, E[KL], which ½ δFδᵀ is the limit of.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Final, final

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.codec import Quantised, encode_levels, nearest
from tersenet.core.types import Workbench
from tersenet.encode import (
    Encoding,
    RateDistortion,
    absorb_norms_,
    divergence,
    fisher_diagonal,
    quadratic_form,
)

__all__ = ["RateDistortionFront", "RatePoint", "rate_distortion"]

RATES: Final = tuple(2.0**k for k in (-2, -1.5, -1, -0.5, 0, 0.5))
"""Steps, in standard deviations, whose balance of loss and bits sets the lambdas."""
UNIFORM: Final = tuple(2.0 ** (k / 2) for k in range(-8, 5))
"""Steps of the uniform quantiser, in standard deviations."""
SHRINK: Final = (1.0, 0.1, 0.01, 0.001)
"""Shares of the quantiser's change at which divergence and quadratic form are compared."""


@final
@dataclass(frozen=True, kw_only=True)
class RatePoint:
    """The network at one lambda."""

    lam: float
    """What a bit is worth, in nats per sample."""
    bits: float
    """Per weight, of the coded payloads."""
    divergence: float
    """E[KL] of the output on images that calibrated nothing, in nats per sample."""
    uniform: float
    """The same of the better uniform quantiser at as many bits; NaN beyond its steps."""

    @property
    def dominates_uniform(self) -> bool:
        """Whether it moves the output no further than uniform quantisation of as many bits."""
        return self.divergence <= self.uniform


@final
@dataclass(frozen=True, kw_only=True)
class RateDistortionFront:
    """Points from many bits to few, and how far half the quadratic form can be trusted."""

    points: tuple[RatePoint, ...]
    kl_over_quadratic: tuple[float, ...]
    """Divergence over ½ δFδᵀ, for changes that shrink by tens."""


def rate_distortion(
    model: nn.Module,
    *,
    calibration: Sequence[Tensor],
    held_out: Sequence[Tensor],
    method: Encoding | None = None,
) -> RateDistortionFront:
    """Codes the matrices of `model` at six trade-offs, and by uniform levels at thirteen steps.

    Uniform levels are taken twice, with one step for the network and with steps in proportion
    to each matrix' standard deviation: a point is held against the better. Vectors stay exact.
    It takes seconds for small networks, so it keeps no folder.

    Args:
        model: a trained network; it is not changed.
        calibration: inputs for what the method wants to know.
        held_out: inputs on which the divergence is taken.
        method: that chooses the levels; RateDistortion() by default.
    """
    model = absorb_norms_(copy.deepcopy(model).eval())
    quantise = (method or RateDistortion()).quantiser(model, calibration, Workbench())
    matrices = {
        name: value.detach().numpy() for name, value in model.named_parameters() if value.ndim > 1
    }
    curves = [
        np.array(sorted(_measured(model, levels, held_out) for levels in ladder))
        for ladder in (_uniform(matrices, alike=True), _uniform(matrices, alike=False))
    ]
    points, finest = [], None
    for lam in _lambdas(model, matrices, calibration):
        levels = {name: one for name, one in quantise(lam, None).items() if name in matrices}
        finest = finest or levels
        bits, moved = _measured(model, levels, held_out)
        beside = [np.interp(bits, *curve.T, left=np.nan, right=np.nan) for curve in curves]
        uniform = float(np.exp(np.fmin.reduce(beside)))
        points.append(
            RatePoint(lam=lam, bits=bits, divergence=float(np.exp(moved)), uniform=uniform)
        )
    assert finest is not None
    ratios = _ratios(model, finest, held_out)
    return RateDistortionFront(points=tuple(points), kl_over_quadratic=ratios)


def _lambdas(
    model: nn.Module, matrices: Mapping[str, np.ndarray], calibration: Sequence[Tensor]
) -> list[float]:
    """What a bit is worth where loss and bits balance at these steps, at the mean of F."""
    generator = torch.Generator().manual_seed(0)
    fisher = fisher_diagonal(model, calibration, generator=generator)
    count = sum(one.size for one in matrices.values())
    mean = sum(float(fisher[name].sum()) for name in matrices) / count
    spread = sum(float(np.square(one).sum()) for one in matrices.values()) / count
    return [log(2) / 12 * mean * spread * rate**2 for rate in RATES]


def _uniform(matrices: Mapping[str, np.ndarray], *, alike: bool) -> Iterator[dict[str, Quantised]]:
    """Nearest levels at each step: one step for the network, or one by matrix."""
    overall = float(np.concatenate([one.reshape(-1) for one in matrices.values()]).std())
    for step in UNIFORM:
        worth = {
            name: float(np.float32(step * (overall if alike else one.std())))
            for name, one in matrices.items()
        }
        yield {
            name: Quantised(levels=nearest(one, worth[name]), step=worth[name])
            for name, one in matrices.items()
        }


def _measured(
    model: nn.Module, levels: Mapping[str, Quantised], held_out: Sequence[Tensor]
) -> tuple[float, float]:
    """Bits per weight, and the logarithm of the divergence, which is nearly linear in them."""
    bits = sum(8 * len(encode_levels(q.levels, dependent=q.dependent)) for q in levels.values())
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, one in levels.items():
            moved.get_parameter(name).copy_(torch.from_numpy(one.weights()))
    found = divergence(model, moved, held_out)
    return bits / sum(one.levels.size for one in levels.values()), float(np.log(found))


def _ratios(
    model: nn.Module, levels: Mapping[str, Quantised], held_out: Sequence[Tensor]
) -> tuple[float, ...]:
    """Divergence over half the quadratic form as the change shrinks, in double precision."""
    exact, inputs = copy.deepcopy(model).double(), [one.double() for one in held_out]
    change = {
        name: torch.from_numpy(one.weights()).double() - exact.get_parameter(name).detach()
        for name, one in levels.items()
    }
    form = quadratic_form(exact, change, inputs)
    ratios = []
    for share in SHRINK:
        moved = copy.deepcopy(exact)
        with torch.no_grad():
            for name, one in change.items():
                moved.get_parameter(name).add_(share * one)
        ratios.append(divergence(exact, moved, inputs) / (share**2 * form))
    return tuple(ratios)
