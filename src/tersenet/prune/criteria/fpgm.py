"""Filter pruning by the geometric median.

He, Liu, Wang, Hu, Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural
Networks Acceleration", 2019, arXiv:1811.00250.
"""

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.graph.reading import tensors_of
from tersenet.prune.criteria.weights import filter_rows
from tersenet.prune.criterion import Criterion, Scope, criterion

__all__ = ["FPGM"]


@final
@criterion("fpgm")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class FPGM(Criterion):
    """Scores a unit by how far its filters are from all others, Δ_c = Σ_j ‖w_c − w_j‖₂.

    What is near the middle can be said by the others: it goes even where its norm is large, so
    this suits groups whose filters are all far from zero. Needs no data.
    """

    # Distances of one group say little about another's.
    usual_scope: ClassVar[Scope] = "layer"

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns Δ_c for each unit of each group."""
        tensors = tensors_of(subject.model)
        filters = {group.name: filter_rows(group, tensors) for group in groups}
        return {name: torch.cdist(rows, rows).sum(1) for name, rows in filters.items()}
