"""Optimal brain damage, for channels.

LeCun, Denker, Solla, "Optimal Brain Damage", 1990. The diagonal of the Hessian by Hutchinson's
estimator: Bekas, Kokiopoulou, Saad, "An estimator for the diagonal of a matrix", 2007.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import functional_call

from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.graph.reading import evaluating
from tersenet.prune.criteria.observe import calibration_of
from tersenet.prune.criteria.second_order import damage
from tersenet.prune.criteria.taylor import filters_of
from tersenet.prune.criteria.weights import unit_sums
from tersenet.prune.criterion import Criterion, Needs, criterion
from tersenet.train.layout import SafeConvolutions
from tersenet.train.loss import summed_loss

__all__ = ["OBD"]


@final
@criterion("obd")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class OBD(Criterion):
    """Scores a unit by the sum of the saliencies of its weights, Σ h_ii w_i² / 2, in nats.

    h_ii is the second derivative of the mean loss by w_i: the diagonal of the full Hessian, not
    of its Gauss–Newton part, estimated by Hutchinson's E[v ⊙ Hv] over random signs v. The
    estimate is exact where the Hessian is diagonal. A sum below zero, possible off a minimum,
    counts as zero.

    Use it on a converged model: the gradient and what weights do together are left out. The loss
    is cross-entropy where the subject names none.
    """

    needs: ClassVar[Needs] = Needs.LABELS

    batches: int = Field(default=10, gt=0)
    """Calibration batches to look at, at most."""
    probes: int = Field(default=8, ge=1)
    """Vectors of random signs to average over for each batch; two backward passes each."""
    seed: int = Field(default=0, ge=0)
    """Of the generator the signs are drawn from; nothing else is drawn from it."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns the summed saliency for each unit of each group."""
        weights = filters_of(subject, groups)
        diagonal = self._diagonal(subject, weights)
        salient = {name: damage(w.detach(), diagonal[name]) for name, w in weights.items()}
        return {group.name: unit_sums(group, salient).clamp_min(0) for group in groups}

    def _diagonal(self, subject: Subject, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the estimated h_ii of the mean loss for each weight."""
        generator = torch.Generator().manual_seed(self.seed)
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        data = calibration_of(self, subject, self.batches)
        samples, wanted = 0, list(weights.values())
        with evaluating(subject.model), torch.enable_grad(), SafeConvolutions():
            for inputs, targets in data:
                outputs = functional_call(subject.model, dict(weights), (inputs,))
                loss = summed_loss(subject, outputs, targets)
                slopes = torch.autograd.grad(loss, wanted, create_graph=True)
                for _ in range(self.probes):
                    signs = [_signs(weight, generator) for weight in wanted]
                    along = torch.stack(
                        [(g * v).sum() for g, v in zip(slopes, signs, strict=True)]
                    ).sum()
                    curved = torch.autograd.grad(along, wanted, retain_graph=True)  # Hv
                    for name, v, hv in zip(weights, signs, curved, strict=True):
                        total[name] += v * hv
                samples += len(inputs)
        return {name: summed / (samples * self.probes) for name, summed in total.items()}


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, like.shape, generator=generator)
    return (2 * drawn - 1).to(like)
