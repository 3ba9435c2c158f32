"""First-order Taylor pruning.

Molchanov, Tyree, Karras, Aila, Kautz, "Pruning Convolutional Neural Networks for Resource
Efficient Inference", 2016, arXiv:1611.06440; Molchanov, Mallya, Tyree, Frosio, Kautz,
"Importance Estimation for Neural Network Pruning", 2019, arXiv:1906.10771.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.func import functional_call

from tersenet.core.registry import method
from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.graph.reading import evaluating
from tersenet.prune.observe import ObservedScore, observe, summed_loss, to_units
from tersenet.prune.weights import unit_sums
from tersenet.train.layout import SafeConvolutions

__all__ = ["Taylor"]


@final
@method("taylor")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Taylor(ObservedScore):
    """Scores a unit by the first-order change of the loss if it were zeroed, in nats per sample.

    With `of: gates` (both papers), Δ_c = mean_n |Σ a[n] g[n]|: what a gate on the unit, at one,
    would change if it closed. a is the output of the unit's layers, after their batch norms and
    before the activation function (a ReLU does not change a · g), summed over positions and over
    all layers that produce the unit. With `of: weights` (2019), Δ_c = mean_b |Σ w g_b| over the
    weights of the unit's filters, g_b the gradient of the mean loss of batch b.

    Absolute for each sample or batch, since on a trained network the signed changes cancel.
    Needs data with targets; the loss is cross-entropy where the subject names none.
    """

    of: Literal["gates", "weights"] = "gates"
    """Whether activations or weights are multiplied by their gradients."""
    squared: bool = False
    """Whether each change is squared instead of taken absolute, as in the paper of 2019."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns Δ_c for each unit of each group.

        Raises:
            DataError: if there is no calibration data, or no loss for its targets.
            StructureError: if a site cannot be watched.
        """
        return (
            self._gates(subject, groups) if self.of == "gates" else self._weights(subject, groups)
        )

    def _gates(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        total = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
        data, seen = self.data(subject), 0
        with observe(subject.model, groups) as watch, torch.enable_grad():
            for inputs, targets in data:
                effects = watch.effects(summed_loss(subject, watch.run(inputs), targets))
                for group in groups:
                    tied = [to_units(group, site, effects[site]) for site in group.sources]
                    total[group.name] += self._size(torch.stack(tied).sum(0)).sum(0)
                seen += len(inputs)
        return {name: one / seen for name, one in total.items()}

    def _weights(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        total = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
        weights = filters_of(subject, groups)
        data = self.data(subject)
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
        return {name: one / len(data) for name, one in total.items()}

    def _size(self, change: Tensor) -> Tensor:
        return change.square() if self.squared else change.abs()


def filters_of(subject: Subject, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Returns copies of the weights that produce the units, which gradients can be taken by."""
    tensors = dict(subject.model.named_parameters())
    names = dict.fromkeys(member.tensor for group in groups for member in group.filters)
    return {name: tensors[name].detach().clone().requires_grad_() for name in names}
