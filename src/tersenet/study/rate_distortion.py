"""Are weights that are worth their bits better than rounded ones? Loss against bits, both ways.

Wiedemann et al., "DeepCABAC", 2019, arXiv:1907.11900: levels of least Σ F (q - w)² + lambda *
bits beside uniform quantisation, through the same coder. The loss is the divergence of the
network's output, E[KL], which ½ δFδᵀ is the limit of.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from tersenet.codec import Quantised, encode_levels, nearest
from tersenet.core.findings import Claim, Findings, Found, LineChart, Series, Table
from tersenet.core.types import Tick, Workbench, no_tick
from tersenet.encode import (
    Encoding,
    RateDistortion,
    absorb_norms_,
    divergence,
    fisher_diagonal,
    quadratic_form,
)
from tersenet.errors import MeasureError
from tersenet.study.folder import open_study
from tersenet.study.registry import STUDIES
from tersenet.study.subject import digests
from tersenet.train import Classification

__all__ = ["RateDistortionFront", "RatePoint", "study_rate_distortion", "trace_front"]

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
    """Bits per weight, of the coded payloads."""
    divergence: float
    """E[KL] of the output on images that calibrated nothing, in nats per sample."""
    uniform: float | None
    """Divergence by the better uniform quantiser at as many bits; None beyond its steps."""

    @property
    def dominates_uniform(self) -> bool:
        """Whether it moves the output no further than uniform quantisation of as many bits."""
        return self.uniform is not None and self.divergence <= self.uniform


@final
@dataclass(frozen=True, kw_only=True)
class RateDistortionFront:
    """Points from many bits to few, and how far half the quadratic form can be trusted."""

    points: tuple[RatePoint, ...]
    uniform: tuple[tuple[float, float], ...]
    """Bits per weight and divergence of uniform quantisation, each step."""
    kl_over_quadratic: tuple[float, ...]
    """Divergence over ½ δFδᵀ, for changes that shrink by tens."""


@STUDIES.register("rate-distortion")
def study_rate_distortion(
    model: nn.Module,
    task: Classification,
    *,
    folder: Path,
    images: int = 512,
    tick: Tick = no_tick,
) -> Findings:
    """Are weights that are worth their bits better than rounded ones? Loss against bits.

    Args:
        model: A trained network; it is not changed.
        task: Its data.
        folder: Folder of the study.
        images: Of the training data, to calibrate on, and as many others to judge by.
        tick: Told of the progress.

    Raises:
        MeasureError: if there are no images.
        RunError: if the folder holds another study, or cannot be written.
    """
    if images < 1:
        raise MeasureError(f"images is {images}: give at least one.")
    seen, unseen = (
        [x for x, _ in part.batches(128)]
        for part in (task.train.head(images), task.train.tail(images).head(images))
    )
    adapter = TypeAdapter(RateDistortionFront)

    def measure() -> dict[str, Any]:
        front = trace_front(model, calibration=seen, held_out=unseen)
        return adapter.dump_python(front, mode="json")

    of, settings = digests(model, task), {"images": images}
    with open_study(folder, name="rate-distortion", settings=settings, of=of) as study:
        tick("coding at six trade-offs", 0, 1)
        front = adapter.validate_python(study.point("front", measure))
    return _findings(front, images)


def _findings(front: RateDistortionFront, images: int) -> Findings:
    beside = [point for point in front.points if point.uniform is not None]
    better = sum(point.dominates_uniform for point in beside)
    found: Found = "undecided" if not beside else "does not hold"
    if beside and better == len(beside):
        found = "holds"
    return Findings(
        name="rate-distortion",
        question="Are weights that are worth their bits better than rounded ones?",
        claims=(
            Claim(
                text="Levels chosen by loss and bits move the output less than uniform ones of as "
                "many bits.",
                found=found,
                evidence=f"At {better} of the {len(beside)} trade-offs within the uniform steps.",
            ),
        ),
        charts=(
            LineChart(
                title="Divergence of the output against bits",
                x_label="bits per weight, coded",
                y_label="nats a sample",
                y_log=True,
                series=(
                    Series.of("by loss and bits", ((p.bits, p.divergence) for p in front.points)),
                    Series.of("uniform steps", sorted(front.uniform)),
                ),
            ),
        ),
        tables=(
            Table(
                name="front",
                title="Every trade-off",
                columns=("nats a bit is worth", "bits a weight", "divergence", "of uniform steps"),
                rows=tuple((p.lam, p.bits, p.divergence, p.uniform) for p in front.points),
            ),
        ),
        conditions={
            "images": f"{images} training images to calibrate on, {images} others to judge"
        },
        notes=(
            "Divergence over half the quadratic form, as the change shrinks by tens: "
            + ", ".join(f"{ratio:.3g}" for ratio in front.kl_over_quadratic),
        ),
    )


def trace_front(
    model: nn.Module,
    *,
    calibration: Sequence[Tensor],
    held_out: Sequence[Tensor],
    method: Encoding | None = None,
) -> RateDistortionFront:
    """Codes the matrices of `model` at six trade-offs, and by uniform levels at thirteen steps.

    Uniform levels are taken twice, with one step for the network and with steps in proportion
    to each matrix' standard deviation: a point is held against the better. Vectors stay exact.
    It takes seconds for small networks.

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
        np.array(sorted(_measure(model, levels, held_out) for levels in ladder))
        for ladder in (_uniform(matrices, alike=True), _uniform(matrices, alike=False))
    ]
    points, finest = [], None
    for lam in _lambdas(model, matrices, calibration):
        levels = {name: values for name, values in quantise(lam, None).items() if name in matrices}
        finest = finest or levels
        bits, moved = _measure(model, levels, held_out)
        beside = [
            float(np.exp(np.interp(bits, *curve.T)))
            for curve in curves
            if curve[0, 0] <= bits <= curve[-1, 0]
        ]
        points.append(
            RatePoint(
                lam=lam,
                bits=bits,
                divergence=float(np.exp(moved)),
                uniform=min(beside, default=None),
            )
        )
    assert finest is not None
    ratios = _ratios(model, finest, held_out)
    uniform = tuple(
        (float(bits), float(np.exp(moved))) for curve in curves for bits, moved in curve
    )
    return RateDistortionFront(points=tuple(points), uniform=uniform, kl_over_quadratic=ratios)


def _lambdas(
    model: nn.Module, matrices: Mapping[str, np.ndarray], calibration: Sequence[Tensor]
) -> list[float]:
    """What a bit is worth where loss and bits balance at these steps, at the mean of F."""
    generator = torch.Generator().manual_seed(0)
    fisher = fisher_diagonal(model, calibration, generator=generator)
    count = sum(matrix.size for matrix in matrices.values())
    mean = sum(float(fisher[name].sum()) for name in matrices) / count
    spread = sum(float(np.square(matrix).sum()) for matrix in matrices.values()) / count
    return [log(2) / 12 * mean * spread * rate**2 for rate in RATES]


def _uniform(matrices: Mapping[str, np.ndarray], *, alike: bool) -> Iterator[dict[str, Quantised]]:
    """Nearest levels at each step: one step for the network, or one by matrix."""
    overall = float(np.concatenate([matrix.reshape(-1) for matrix in matrices.values()]).std())
    for step in UNIFORM:
        worth = {
            name: float(np.float32(step * (overall if alike else matrix.std())))
            for name, matrix in matrices.items()
        }
        yield {
            name: Quantised(levels=nearest(matrix, worth[name]), step=worth[name])
            for name, matrix in matrices.items()
        }


def _measure(
    model: nn.Module, levels: Mapping[str, Quantised], held_out: Sequence[Tensor]
) -> tuple[float, float]:
    """Bits per weight, and the logarithm of the divergence, which is nearly linear in them."""
    bits = sum(8 * len(encode_levels(q.levels, dependent=q.dependent)) for q in levels.values())
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, matrix in levels.items():
            moved.get_parameter(name).copy_(torch.from_numpy(matrix.weights()))
    found = divergence(model, moved, held_out)
    return bits / sum(matrix.levels.size for matrix in levels.values()), float(np.log(found))


def _ratios(
    model: nn.Module, levels: Mapping[str, Quantised], held_out: Sequence[Tensor]
) -> tuple[float, ...]:
    """Divergence over half the quadratic form as the change shrinks, in double precision."""
    exact, inputs = copy.deepcopy(model).double(), [inputs.double() for inputs in held_out]
    change = {
        name: torch.from_numpy(matrix.weights()).double() - exact.get_parameter(name).detach()
        for name, matrix in levels.items()
    }
    form = quadratic_form(exact, change, inputs)
    ratios = []
    for share in SHRINK:
        moved = copy.deepcopy(exact)
        with torch.no_grad():
            for name, matrix in change.items():
                moved.get_parameter(name).add_(share * matrix)
        ratios.append(divergence(exact, moved, inputs) / (share**2 * form))
    return tuple(ratios)
