"""Random pruning: the control that every criterion has to beat."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.prune.criterion import Criterion, criterion

__all__ = ["Random"]


@final
@criterion("random")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Random(Criterion):
    """Scores units by chance: uniform on [0, 1), the same for the same seed."""

    seed: int = Field(default=0, ge=0)
    """Of the generator the scores are drawn from; nothing else is drawn from it."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns a number by chance for each unit of each group."""
        generator = torch.Generator().manual_seed(self.seed)
        return {group.name: torch.rand(group.size, generator=generator) for group in groups}
