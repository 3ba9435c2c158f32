"""Pruning filters by the norm of their weights.

L1: Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", 2016,
arXiv:1608.08710, which compares it with L2. L2: He, Kang, Dong, Fu, Yang, "Soft Filter Pruning
for Accelerating Deep Convolutional Neural Networks", 2018, arXiv:1808.06866.
"""

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.graph.reading import tensors_of
from tersenet.prune.criteria.weights import filter_rows
from tersenet.prune.criterion import Criterion, criterion

__all__ = ["L1", "L2"]


@final
@criterion("l1")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class L1(Criterion):
    """Scores a unit by the sum of the absolute weights of its filters, Δ_c = Σ|w_c|.

    Summed over all filters that produce the unit: in a residual stage, over every layer that
    adds to the channel. Needs no data.
    """

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns Δ_c for each unit of each group."""
        tensors = tensors_of(subject.model)
        return {group.name: filter_rows(group, tensors).abs().sum(1) for group in groups}


@final
@criterion("l2")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class L2(Criterion):
    """Scores a unit by the Euclidean norm of its filters, Δ_c = √Σ w_c².

    Over all filters that produce the unit, as one vector. Where L1 asks how much weight there
    is, this asks how much of it is in one place: (1, 0) beats (0.6, 0.6) here, not there. Needs
    no data.
    """

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns Δ_c for each unit of each group."""
        tensors = tensors_of(subject.model)
        return {group.name: filter_rows(group, tensors).norm(dim=1) for group in groups}
