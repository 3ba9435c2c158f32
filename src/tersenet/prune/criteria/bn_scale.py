"""Pruning by the scale of batch norm: the criterion of network slimming.

Liu, Li, Shen, Huang, Yan, Zhang, "Learning Efficient Convolutional Networks through Network
Slimming", 2017, arXiv:1708.06519.
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.types import Subject
from tersenet.errors import StructureError
from tersenet.graph import ChannelGroup
from tersenet.graph.reading import tensors_of
from tersenet.prune.criterion import Criterion, criterion

__all__ = ["BNScale", "gammas"]

_STATISTIC = ".running_mean"
_SCALE = ".weight"


@final
@criterion("bn-scale")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class BNScale(Criterion):
    """Scores a unit by its batch-norm scale, |γ_c|; averaged where several norms scale it.

    Means most on a network trained with an L1 penalty on γ, which drives what is not needed to
    zero; without that training it is a weak criterion. Groups that no batch norm scales are left
    alone and listed. Needs no data.
    """

    absolute: bool = False
    """Whether |γ| of different groups compare as they are, as after training with such a penalty;
    else as multiples of their group's mean."""

    @property
    def comparable(self) -> bool:
        """Whether scores of different groups compare as they are."""
        return self.absolute

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns the mean |γ_c| for each unit of each group."""
        tensors = tensors_of(subject.model)
        return {group.name: _scales(group, tensors) for group in groups}

    def why_not(self, group: ChannelGroup) -> str | None:
        """Returns why nothing scales the group, if so."""
        return None if gammas(group) else "no batch norm scales it"


def gammas(group: ChannelGroup) -> list[str]:
    """Returns the names of γ: the weights beside running statistics, both of the group."""
    reached = {member.tensor for member in group.members}
    norms = [name.removesuffix(_STATISTIC) for name in reached if name.endswith(_STATISTIC)]
    return sorted(f"{norm}{_SCALE}" for norm in norms if f"{norm}{_SCALE}" in reached)


def _scales(group: ChannelGroup, tensors: Mapping[str, Tensor]) -> Float[Tensor, " unit"]:
    own = gammas(group)
    if not own:
        raise StructureError(
            f"no batch norm scales '{group.name}', so it has no scale to be judged by: "
            "add it to skip, or use another criterion."
        )
    total = torch.zeros(group.size, dtype=torch.float64)
    count = torch.zeros(group.size, dtype=torch.float64)
    for member in group.members:
        if member.tensor in own:
            scale = tensors[member.tensor].detach().double().cpu().abs()
            total += torch.stack([scale[list(own)].sum() for own in member.indices])
            count += torch.tensor([len(own) for own in member.indices])
    return total / count.clamp_min(1)
