"""Pruning by the rank of feature maps.

Lin, Ji, Wang, Zhang, Zhang, Tian, Shao, "HRank: Filter Pruning using High-Rank Feature Map",
2020, arXiv:2002.10179.
"""

from collections.abc import Sequence
from typing import ClassVar, final

from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.prune.criteria.activation import average_maps
from tersenet.prune.criteria.maps import mean_rank
from tersenet.prune.criteria.observe import calibration_of
from tersenet.prune.criterion import Criterion, Needs, Scope, criterion

__all__ = ["HRank"]


@final
@criterion("hrank")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class HRank(Criterion):
    """Scores a unit by the mean rank of its feature maps on calibration data.

    The map is the layer's output after its batch norm, and after a ReLU of its own unless
    `rectified` is off; averaged over the layers that produce the unit.
    Of a linear layer the rank is 1 or 0.
    """

    needs: ClassVar[Needs] = Needs.INPUTS
    # Ranks are bounded by the size of the maps, which differs by layer.
    usual_scope: ClassVar[Scope] = "layer"

    batches: int = Field(default=10, gt=0)
    """Calibration batches to look at, at most."""
    rectified: bool = True
    """Whether the map is max(output, 0), as the paper's are."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns the mean rank for each unit of each group."""
        data = calibration_of(self, subject, self.batches)
        return average_maps(subject, groups, data, mean_rank, rectified=self.rectified)
