"""L1-norm filter pruning.

Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", 2016,
arXiv:1608.08710.
"""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.registry import method
from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.graph.reading import tensors_of
from tersenet.prune.score import ChannelScore

__all__ = ["L1"]


@final
@method("l1")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class L1(ChannelScore):
    """Scores a unit by the sum of the absolute weights of its filters, Δ_c = Σ|w_c|.

    Summed over all filters that produce the unit: in a residual stage, over every layer that
    adds to the channel. Needs no data.
    """

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns Δ_c for each unit of each group."""
        tensors = tensors_of(subject.model)
        return {group.name: _norms(group, tensors) for group in groups}


def _norms(group: ChannelGroup, tensors: Mapping[str, Tensor]) -> Float[Tensor, " unit"]:
    total = torch.zeros(group.size, dtype=torch.float64)
    for member in group.filters:
        weight = tensors[member.tensor].detach().double().cpu()
        norms = weight.abs().movedim(member.dim, 0).flatten(1).sum(1)  # (filter,)
        total += torch.stack([norms[list(own)].sum() for own in member.indices])
    return total
