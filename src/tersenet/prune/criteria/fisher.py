"""Fisher pruning of channels.

Theis, Korshunova, Tejani, Huszár, "Faster gaze prediction with dense networks and Fisher
pruning", 2018, arXiv:1801.05787. Channels tied by residual sums are scored together, as in Liu
et al., "Group Fisher Pruning for Practical Network Compression", 2021, arXiv:2108.00708.
"""

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.registry import method
from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.prune.criteria.observe import ObservedScore, observe, summed_loss, to_units

__all__ = ["Fisher"]


@final
@method("fisher")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Fisher(ObservedScore):
    """Scores a unit by the rise in loss, in nats per sample, if it were zeroed.

    With a[n] the unit's activations and g[n] the gradient of sample n's loss by them, the
    second-order estimate of the rise is  Δ_c = 1/2 mean_n (Σ a[n] g[n])².  a is the output of the
    unit's layers, after their batch norms and before the activation function (a ReLU does not
    change a · g); the sum runs over positions and over all layers that produce the unit.

    The paper removes one unit at a time (at_a_time: 1). Use it on a converged model: the
    first-order term is taken as zero. Needs data with targets; the loss is cross-entropy where
    the subject names none.
    """

    nats: ClassVar[bool] = True

    mac_weight: float = Field(default=0.0, ge=0)
    """Nats one million multiply-accumulates are worth: the score falls by mac_weight for each
    million that goes with the unit. Needs at_a_time, which compares groups in nats."""

    @model_validator(mode="after")
    def _check(self) -> "Fisher":
        if self.at_a_time is None and self.mac_weight:
            raise ValueError("mac_weight needs at_a_time: set it to 1, or more to be faster")
        return self

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns Δ_c less what the unit's work is worth, in nats, for each unit of each group.

        Raises:
            DataError: if there is no calibration data, or no loss for its targets.
            StructureError: if a site cannot be watched.
        """
        squared = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
        data, seen = self.data(subject), 0
        with observe(subject.model, groups) as watch, torch.enable_grad():
            for inputs, targets in data:
                effects = watch.effects(summed_loss(subject, watch.run(inputs), targets))
                for group in groups:
                    tied = [to_units(group, site, effects[site]) for site in group.sources]
                    squared[group.name] += torch.stack(tied).sum(0).square().sum(0)
                seen += len(inputs)
        return {
            group.name: squared[group.name] / (2 * seen)
            - self.mac_weight * group.macs_per_channel / 1e6
            for group in groups
        }
