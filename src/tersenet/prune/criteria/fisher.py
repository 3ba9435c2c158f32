"""Fisher pruning of channels.

Theis, Korshunova, Tejani, Huszár, "Faster gaze prediction with dense networks and Fisher
pruning", 2018, arXiv:1801.05787. Channels tied by residual sums are scored together, as in Liu
et al., "Group Fisher Pruning for Practical Network Compression", 2021, arXiv:2108.00708.
"""

from collections.abc import Sequence
from typing import ClassVar, final

from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.prune.criteria.observe import calibration_of, mean_effects
from tersenet.prune.criterion import Criterion, Needs, criterion

__all__ = ["Fisher"]


@final
@criterion("fisher")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Fisher(Criterion):
    """Scores a unit by the rise in loss, in nats per sample, if it were zeroed.

    With a[n] the unit's activations and g[n] the gradient of sample n's loss by them, the
    second-order estimate of the rise is  Δ_c = 1/2 mean_n (Σ a[n] g[n])².  a is the output of the
    unit's layers, after their batch norms and before the activation function (a ReLU does not
    change a · g); the sum runs over positions and over all layers that produce the unit.

    The paper removes one unit at a time (at_a_time: 1). Use it on a converged model: the
    first-order term is taken as zero. The loss is cross-entropy where the subject names none.
    """

    needs: ClassVar[Needs] = Needs.LABELS
    nats: ClassVar[bool] = True

    batches: int = Field(default=10, gt=0)
    """Calibration batches to look at, at most."""
    mac_weight: float = Field(default=0.0, ge=0)
    """Nats one million multiply-accumulates are worth: the score falls by mac_weight for each
    million that goes with the unit. Needs at_a_time, which compares groups in nats."""

    @property
    def option_in_nats(self) -> str | None:
        """mac_weight: as multiples of a group's mean, its nats would be lost."""
        return "mac_weight" if self.mac_weight else None

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns Δ_c less what the unit's work is worth, in nats, for each unit of each group."""
        data = calibration_of(self, subject, self.batches)
        squared = mean_effects(subject, groups, data, size=lambda effect: effect.square())
        return {
            group.name: squared[group.name] / 2 - self.mac_weight * group.macs_per_channel / 1e6
            for group in groups
        }
