"""Network slimming: training with an L1 penalty on batch-norm scales, then pruning by them.

Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through Network
Slimming", 2017, arXiv:1708.06519. The penalty by proximal steps, the paper's section 3 names both.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import ClassVar, Final, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.types import Edit, EditKind, Method, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph import replay, trace
from tersenet.prune.channels.groups import considered
from tersenet.prune.channels.method import Channels, Counts
from tersenet.prune.channels.plan import PrunePlan
from tersenet.prune.channels.rounding import MultipleOf
from tersenet.prune.criteria.bn_scale import BNScale, gammas
from tersenet.prune.trained.sparse_training import soft_threshold, trained_copy, training_of
from tersenet.train import TrainingOptions

__all__ = ["Slimming"]

_MOMENTUM: Final = 0.9


@final
@method("slimming")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Slimming(Method[PrunePlan]):
    """Trains with the loss + λ Σ|γ|, then removes the units of smallest |γ| in the whole network.

    After each step of SGD, γ ← sign(γ) max(|γ| − η λ / (1 − μ), 0), with η the learning rate: the
    proximal map of the penalty, which unlike a sub-gradient reaches zero; over 1 − μ, since
    momentum sums up the loss's gradients so. One threshold for all groups, on |γ| as it is.
    Train afterwards, without the penalty. Planning trains, so it takes as long. Needs training
    data with targets; the loss is cross-entropy where the subject names none.
    """

    family: ClassVar[str] = "prune"
    removes: ClassVar[bool] = True
    plan_type: ClassVar[type] = PrunePlan

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the training data, with the penalty."""
    strength: float = Field(default=1e-3, ge=0)
    """λ: nats that a unit of |γ| costs."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Peak of the schedule: linear warm-up, then a cosine to zero."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of weights; batch-norm parameters and biases are not decayed."""
    keep: float = Field(default=0.5, gt=0, le=1)
    """Share of units to keep, of the groups considered."""
    only: tuple[str, ...] = ()
    """Patterns of groups or sites to consider; empty considers all."""
    skip: tuple[str, ...] = ()
    """Patterns of groups or sites to leave alone."""
    multiple_of: MultipleOf = "auto"
    """What kept counts are multiples of; auto measures which counts the runtime likes, null
    takes any."""
    least: int = Field(default=1, ge=1)
    """Units that every group keeps at least."""
    counts: Counts = field(default_factory=dict, hash=False)
    """Units that groups keep, by pattern, as `counts` of `Channels`; in place of keep,
    multiple_of and least."""

    @property
    def idle(self) -> Mapping[str, str]:
        """Counts take the place of what would decide them."""
        return {name: why for name, why in self._channels.idle.items() if name != "scope"}

    def plan(self, subject: Subject, bench: Workbench) -> PrunePlan:
        """Trains a copy and decides which units stay.

        Raises:
            DataError: if there is no training data, or no loss for its targets.
            StructureError: if the network cannot be read, a pattern matches nothing, or no batch
                norm scales a unit that may go.
            MeasureError: if the runtime to ask for liked counts cannot be used.
        """
        trained = dataclasses.replace(subject, model=self.reference(subject, bench))
        return self._channels.plan_for(self.name, trained, bench)

    def apply(
        self, model: nn.Module, plan: PrunePlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Takes over what was trained, and removes all other units, in place."""
        trained = self.reference(subject, bench)
        model.load_state_dict(trained.state_dict())
        model, slices = self._channels.apply(model, plan, subject, bench)
        text = f"{self.epochs:g} epochs with {self.strength:g} Σ|γ|"
        return model, [Edit(site="*", kind=EditKind.TUNE, before="as it was", after=text), *slices]

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Repeats the slices."""
        del example
        return replay(model, [edit for edit in edits if edit.kind is not EditKind.TUNE])

    def reference(self, subject: Subject, bench: Workbench) -> nn.Module:
        """Returns a copy of the network, trained with the penalty."""
        training_of(self.name, subject)
        groups, _ = considered(
            trace(subject.model, subject.example),
            self._channels.criterion,
            owner=f"prune {self.name}",
            only=self.only,
            skip=self.skip,
            counts=self.counts,
        )
        names = sorted({name for group in groups for name in gammas(group)})
        if not names:
            raise StructureError(
                "prune slimming finds no batch norm whose scale could be penalised: use a "
                "criterion on weights, such as l1."
            )

        def shrink(model: nn.Module, rate: float) -> None:
            with torch.no_grad():
                for name in names:
                    scale = model.get_parameter(name)
                    scale.copy_(soft_threshold(scale, rate * self.strength / (1 - _MOMENTUM)))

        options = TrainingOptions(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            momentum=_MOMENTUM,
            weight_decay=self.weight_decay,
        )
        own = copy.deepcopy(subject.model)
        return trained_copy(self.name, subject, own, options, bench, shrink)

    @property
    def _channels(self) -> Channels:
        """What removes units once the network is trained."""
        return Channels(
            criterion=BNScale(absolute=True),
            keep=self.keep,
            scope="global",
            only=self.only,
            skip=self.skip,
            multiple_of=self.multiple_of,
            least=self.least,
            counts=self.counts,
        )
