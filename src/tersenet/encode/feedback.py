"""Layers whose quantisation errors undo each other, with the rate in the loss.

Conzelmann and Bamler (CERWU), 2025, arXiv:2505.18758, with two additions: errors also feed
back between the outputs of a layer, by the second Kronecker factor of its Fisher
information, and the levels are those of the trellis, each of whose paths feeds back its own.
`tersenet.codec.levels.feedback` has the formulas.
"""

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.codec import Quantised, short_step
from tersenet.codec.levels.feedback import FeedbackLevels, inverse_factor, rd_feedback
from tersenet.core.registry import method
from tersenet.core.types import Workbench
from tersenet.encode.coded import Encoding, Quantiser, Steps
from tersenet.encode.fisher import curvatures, fisher_diagonal
from tersenet.encode.rate_distortion import (
    FACTORS,
    MOST,
    finest_step,
    ideal_step,
    in_units,
    parameters,
    quantise_diagonal,
)

__all__ = ["Feedback"]

DIAGONAL_SAMPLES = 128
"""For the vectors, whose share of the file is small."""


@final
@method("feedback")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Feedback(Encoding):
    """Each weight moves to where it undoes most of what the ones before it lost.

    Use it wherever there is calibration data. Layers with groups, and what is no
    convolution and no linear layer, are coded as by `rd`.
    """

    name: ClassVar[str]

    dependent: bool = True
    """Levels along the 8-state trellis: about 8 times the time, fewer bits."""
    damping: float = Field(default=0.01, gt=0)
    """Added to the diagonals of both factors, in units of their mean."""
    labels: int = Field(default=4, ge=1)
    """Sampled per input: more give a better estimate of the gradients' moments."""

    def quantiser(self, model: nn.Module, inputs: Sequence[Tensor], bench: Workbench) -> Quantiser:
        """Estimates the factors; each lambda then takes three passes over the weights."""
        bench.tick("estimating the Fisher information", 0, 1)
        generator = torch.Generator().manual_seed(self.seed)
        weights = parameters(model)
        factors = {}
        found = curvatures(model, inputs, labels=self.labels, generator=generator)
        for name, curvature in found.items():
            columns = inverse_factor(curvature.inputs.numpy(), damping=self.damping)
            rows = inverse_factor(curvature.gradients.numpy(), damping=self.damping)
            factors[f"{name}.weight"] = (columns, rows)
        few = [torch.cat(list(inputs))[:DIAGONAL_SAMPLES]]
        fisher = in_units(fisher_diagonal(model, few, generator=generator), weights)

        def quantise(lam: float, steps: Steps | None) -> dict[str, Quantised]:
            coded = {}
            for name, own in weights.items():
                step = steps[name] if steps else None
                if name in factors:
                    coded[name] = self._matrix(own, *factors[name], lam=lam, step=step)
                else:
                    coded[name] = quantise_diagonal(
                        own, fisher[name].numpy(), lam=lam, step=step, dependent=False
                    )
            return coded

        return quantise

    def _matrix(
        self,
        weights: np.ndarray,
        columns: np.ndarray,
        rows: np.ndarray,
        *,
        lam: float,
        step: float | None,
    ) -> Quantised:
        curvature = float(np.exp(-2 * sum(np.log(np.diag(f)).mean() for f in (columns, rows))))
        ideal = ideal_step(lam, curvature, dependent=self.dependent)
        ideal = min(max(ideal, finest_step(weights)), MOST)
        tried = [step] if step else [short_step(ideal * factor) for factor in FACTORS]
        found: list[tuple[float, float, FeedbackLevels]] = []
        for size in tried:
            fed = rd_feedback(
                weights.reshape(len(weights), -1),
                size,
                lam=2 * lam,
                columns=columns,
                rows=rows,
                dependent=self.dependent,
            )
            found.append((0.5 * fed.distortion + lam * fed.bits, size, fed))
        _, chosen, fed = min(found, key=lambda each: each[:2])
        levels = fed.levels.reshape(weights.shape)
        return Quantised(levels=levels, step=chosen, dependent=self.dependent)
