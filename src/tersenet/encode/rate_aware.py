"""Training on the levels that will be coded, with the bits they cost in the loss.

The forward pass sees each matrix as levels times a step, the backward pass sees through the
rounding (Bengio, Léonard, Courville, 2013, arXiv:1308.3432), and to the task's loss is added
lambda times the bits that an adaptive code would ask for the levels. Weights that are not worth
their bits drift to zero, whole rows of them first. After Oktay et al., "Scalable model
compression by entropy penalized reparameterization", 2020, arXiv:1906.06624, and Girish et al.,
"LilNetX", 2022, arXiv:2204.02965, with a code that is counted instead of learnt: its
probabilities are those of the levels as they are, by row.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, final

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from pydantic import dataclasses as pydantic_dataclasses
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tersenet.codec import Quantised, short_step
from tersenet.core.registry import method
from tersenet.core.types import Edit, EditKind, Method, Skip, Subject, Workbench
from tersenet.encode.coded import write_
from tersenet.encode.fisher import fisher_diagonal
from tersenet.encode.norms import absorb_norms_
from tersenet.encode.rate_distortion import in_units, parameters, quantise_diagonal
from tersenet.errors import DataError
from tersenet.train import TrainingOptions, fit

__all__ = ["RateAwarePlan", "RateAware", "bits"]

LARGEST: Final = 15
"""Magnitude from which on levels cost alike."""
PRIOR: Final = 32.0
"""Levels that a row's share of zeros counts for before its own are seen, as in a context."""
SAMPLES: Final = 256
"""Calibration samples for the Fisher information of the vectors."""


@final
@pydantic_dataclasses.dataclass(frozen=True, kw_only=True)
class RateAwarePlan:
    """How long to train, and the step of each matrix."""

    epochs: float
    steps: dict[str, float]
    summary: str
    skips: tuple[Skip, ...] = ()


@final
@method("rate-aware")
@pydantic_dataclasses.dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class RateAware(Method[RateAwarePlan]):
    """Trains a network into few bytes: levels in the forward pass, their bits in the loss.

    Use it where training data is at hand and `feedback` alone is too large; after structured
    pruning it starts from fewer weights. What was masked stays zero. Matrices are coded as they
    were trained, vectors by what their Fisher information says at the same lambda.
    """

    name: ClassVar[str]
    family: ClassVar[str] = "encode"
    last: ClassVar[bool] = True
    plan_type: ClassVar[type] = RateAwarePlan

    lam: float = Field(gt=0)
    """What a bit is worth, in units of the loss per sample."""
    epochs: float = Field(default=10.0, gt=0)
    """Passes over the training data."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Peak of the schedule: linear warm-up, then a cosine to zero."""
    step: float = Field(default=1.0, gt=0)
    """Of a level, in standard deviations of the matrix as it comes."""
    temperature: float = Field(default=4.0, gt=0)
    """Divides both networks' logits before the softmax."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the original network's outputs in the loss; the labels have the rest."""
    seed: int = Field(default=0, ge=0)
    """Of the labels sampled for the Fisher information."""

    @property
    def idle(self) -> Mapping[str, str]:
        """Without the original's answers there is nothing to soften."""
        return {} if self.weight else {"temperature": "it needs a weight above 0"}

    def plan(self, subject: Subject, bench: Workbench) -> RateAwarePlan:
        """Sets the steps.

        Raises:
            DataError: if there is no data to train on, or none to calibrate.
        """
        if subject.training is None or subject.original is None or not subject.calibration:
            raise DataError(
                "encode rate-aware needs training data and the original network: add a data "
                "section to the recipe, or take encode feedback."
            )
        matrices = {k: w for k, w in parameters(subject.model).items() if w.ndim > 1 and w.any()}
        # Of what is not zero: a mask says nothing about how far apart the others lie.
        steps = {k: short_step(self.step * _deviation(w[w != 0])) for k, w in matrices.items()}
        return RateAwarePlan(
            epochs=self.epochs,
            steps={k: step for k, step in steps.items() if step > 0},
            summary=f"{self.epochs:g} epochs on {len(steps)} matrices of levels, "
            f"a bit at {self.lam:.3g}",
        )

    def apply(
        self, model: nn.Module, plan: RateAwarePlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Trains `model` in place, then codes it as the other methods of this family do."""
        teacher = subject.original
        assert teacher is not None  # plan checked
        assert subject.training is not None
        teacher = teacher.eval()

        def objective(student: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            named = dict(student.named_parameters())
            spent, rounded = torch.zeros(()), {}
            for name, step in plan.steps.items():
                scaled = named[name] / step
                rounded[name] = step * (scaled + (scaled.round() - scaled).detach())
                spent = spent + bits(scaled.flatten(1))
            logits = functional_call(student, rounded, (inputs,))
            loss = (1 - self.weight) * functional.cross_entropy(logits, targets)
            if self.weight:
                with torch.no_grad():
                    wanted = (teacher(inputs) / self.temperature).softmax(1)
                soft = functional.cross_entropy(logits / self.temperature, wanted)
                loss = loss + self.weight * self.temperature**2 * soft
            return loss + self.lam * spent

        options = TrainingOptions(
            epochs=self.epochs, learning_rate=self.learning_rate, weight_decay=0.0
        )
        fit(model, subject.training, objective, options, edits=subject.edits, bench=bench)
        levels = self._levels(model, plan.steps, subject)
        model, edits = write_(model, levels, bench)
        tuned = Edit(site="*", kind=EditKind.TUNE, before="as it was", after=plan.summary)
        return model, [tuned, *edits]

    def _levels(
        self, model: nn.Module, steps: Mapping[str, float], subject: Subject
    ) -> dict[str, Quantised]:
        """Returns the matrices as they were trained, and the vectors at the same price."""
        weights = parameters(absorb_norms_(model.eval()))
        coded = {
            name: Quantised(levels=np.rint(weights[name] / step).astype(np.int32), step=step)
            for name, step in steps.items()
        }
        with torch.no_grad():  # the vectors are weighed in the network that they will be in
            for name, matrix in coded.items():
                model.get_parameter(name).copy_(torch.from_numpy(matrix.weights()))
        inputs = torch.cat([inputs for inputs, _ in subject.calibration])[:SAMPLES]
        generator = torch.Generator().manual_seed(self.seed)
        fisher = in_units(fisher_diagonal(model, [inputs], generator=generator), weights)
        for name, own in weights.items():
            if name not in coded:
                mean = np.full(own.shape, fisher[name].mean().item())
                coded[name] = quantise_diagonal(own, mean, lam=self.lam, step=None, dependent=False)
        return {name: coded[name] for name in weights}

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Returns the network: its values changed, its structure did not."""
        return model


def _deviation(weights: np.ndarray) -> float:
    """The standard deviation in float64: that of large 32-bit floats has no 32-bit float."""
    return float(weights.astype(np.float64).std())


def bits(scaled: Float[Tensor, "row column"]) -> Float[Tensor, ""]:
    """Returns the bits of a matrix in units of its step, differentiable between levels.

    At whole numbers it is the length of a code with the levels' own frequencies: whether a
    level is zero, by row; its sign, one bit; its magnitude. Between them it is interpolated.
    """
    with torch.no_grad():
        found = scaled.abs().round().clamp(max=LARGEST).long()
        count = (found > 0).sum(1, keepdim=True).float()
        share = (count.sum() + 0.5) / (found.numel() + 1)
        nonzero = (count + PRIOR * share) / (found.shape[1] + PRIOR)
        absent, present = -torch.log2(1 - nonzero), -torch.log2(nonzero)
        sizes = torch.bincount(found.flatten(), minlength=LARGEST + 2)[1:].float()
        # Half a level more at 1, a quarter at 2, …: what nobody took costs much, not all.
        sizes = sizes + 0.5 ** torch.arange(1, LARGEST + 2)
        magnitude = 1 - torch.log2(sizes / sizes.sum())
    size = scaled.abs().clamp(max=LARGEST)
    below = size.detach().floor().long()
    lower = torch.where(below > 0, present + magnitude[(below - 1).clamp(min=0)], absent)
    upper = present + magnitude[below]
    return (lower + (size - below) * (upper - lower)).sum()
