"""Filter pruning by the geometric median.

He, Liu, Wang, Hu, Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural
Networks Acceleration", 2019, arXiv:1811.00250.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.registry import method
from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.graph.reading import tensors_of
from tersenet.prune.score import ChannelScore
from tersenet.prune.weights import filter_rows

__all__ = ["FPGM"]


@final
@method("fpgm")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class FPGM(ChannelScore):
    """Scores a unit by how far its filters are from all others, Δ_c = Σ_j ‖w_c − w_j‖₂.

    What is near the middle can be said by the others: it goes even where its norm is large, so
    this suits groups whose filters are all far from zero. Needs no data.
    """

    scope: Literal["global", "layer"] = "layer"
    """Distances of one group say little about another's: units compete within each group."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns Δ_c for each unit of each group."""
        tensors = tensors_of(subject.model)
        rows = {group.name: filter_rows(group, tensors) for group in groups}
        return {name: torch.cdist(one, one).sum(1) for name, one in rows.items()}
