"""Another package that gives tersenet a method, a criterion and a network."""

from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.types import Edit, EditKind, Method, Skip, Subject, Workbench
from tersenet.graph import ChannelGroup
from tersenet.models import MODELS
from tersenet.prune.criterion import Criterion, criterion


def toy_net(*, width: int = 4) -> nn.Module:
    """A convolution and a linear layer, for images of one channel."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 10),
    )  # fmt: skip


MODELS.add("toy-net", toy_net)


@plain_dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """The digits that stay."""

    digits: int
    skips: Sequence[Skip] = ()

    @property
    def summary(self) -> str:
        """One line for a person."""
        return f"rounds weights to {self.digits} binary digits"


@method("round")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Round(Method[RoundPlan]):
    """Rounds every weight to multiples of 2^-digits."""

    family: ClassVar[str] = "quantize"
    plan_type: ClassVar[type] = RoundPlan

    digits: int = Field(default=4, ge=0)
    """Binary digits behind the point."""

    def plan(self, subject: Subject, bench: Workbench) -> RoundPlan:
        """Decides nothing."""
        return RoundPlan(digits=self.digits)

    def apply(
        self, model: nn.Module, plan: RoundPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Rounds in place."""
        with torch.no_grad():
            for value in model.parameters():
                value.mul_(2**plan.digits).round_().div_(2**plan.digits)
        after = f"{plan.digits} digits"
        edit = Edit(site="*", kind=EditKind.TUNE, before="fp32", after=after, data={})
        return model, (edit,)

    def replay(self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]) -> Any:
        """Changes no structure."""
        return model


@criterion("largest")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Largest(Criterion):
    """Scores a unit by its largest weight."""

    def score(self, subject: Subject, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """Returns it for each unit of each group."""
        weights = {
            group.name: subject.model.get_parameter(group.filters[0].tensor) for group in groups
        }
        return {name: weight.detach().abs().flatten(1).amax(1) for name, weight in weights.items()}
