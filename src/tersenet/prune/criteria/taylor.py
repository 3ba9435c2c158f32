"""First-order Taylor pruning.

Molchanov, Tyree, Karras, Aila, Kautz, "Pruning Convolutional Neural Networks for Resource
Efficient Inference", 2016, arXiv:1611.06440; Molchanov, Mallya, Tyree, Frosio, Kautz,
"Importance Estimation for Neural Network Pruning", 2019, arXiv:1906.10771.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import functional_call

from tersenet.core.types import Batch, Subject
from tersenet.graph import ChannelGroup
from tersenet.graph.reading import evaluating
from tersenet.prune.criteria.observe import calibration_of, mean_effects
from tersenet.prune.criteria.weights import unit_sums
from tersenet.prune.criterion import Criterion, Needs, criterion
from tersenet.train.layout import SafeConvolutions
from tersenet.train.loss import summed_loss

__all__ = ["Taylor"]


@final
@criterion("taylor")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Taylor(Criterion):
    """Scores a unit by the first-order change of the loss if it were zeroed, in nats per sample.

    With `of: gates` (both papers), Δ_c = mean_n |Σ a[n] g[n]|: what a gate on the unit, at one,
    would change if it closed. a is the output of the unit's layers, after their batch norms and
    before the activation function (a ReLU does not change a · g), summed over positions and over
    all layers that produce the unit. With `of: weights` (2019), Δ_c = mean_b |Σ w g_b| over the
    weights of the unit's filters, g_b the gradient of the mean loss of batch b.

    Absolute for each sample or batch, since on a trained network the signed changes cancel.
    The loss is cross-entropy where the subject names none.
    """

    needs: ClassVar[Needs] = Needs.LABELS

    batches: int = Field(default=10, gt=0)
    """Calibration batches to look at, at most."""
    of: Literal["gates", "weights"] = "gates"
    """Whether activations or weights are multiplied by their gradients."""
    squared: bool = False
    """Whether each change is squared instead of taken absolute, as in the paper of 2019."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns Δ_c for each unit of each group."""
        data = calibration_of(self, subject, self.batches)
        if self.of == "gates":
            return mean_effects(subject, groups, data, size=self._size)
        return self._of_weights(subject, groups, data)

    def _of_weights(
        self, subject: Subject, groups: Sequence[ChannelGroup], data: Sequence[Batch]
    ) -> dict[str, Float[Tensor, " unit"]]:
        total = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
        weights = filters_of(subject, groups)
        with evaluating(subject.model), torch.enable_grad(), SafeConvolutions():
            for inputs, targets in data:
                outputs = functional_call(subject.model, weights, (inputs,))
                loss = summed_loss(subject, outputs, targets) / len(inputs)
                slopes = torch.autograd.grad(loss, list(weights.values()))
                products = {
                    name: weight.detach() * slope
                    for (name, weight), slope in zip(weights.items(), slopes, strict=True)
                }
                for group in groups:
                    total[group.name] += self._size(unit_sums(group, products))
        return {name: summed / len(data) for name, summed in total.items()}

    def _size(self, change: Tensor) -> Tensor:
        return change.square() if self.squared else change.abs()


def filters_of(subject: Subject, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Returns copies of the weights that produce the units, which gradients can be taken by."""
    tensors = dict(subject.model.named_parameters())
    names = dict.fromkeys(member.tensor for group in groups for member in group.filters)
    return {name: tensors[name].detach().clone().requires_grad_() for name in names}
