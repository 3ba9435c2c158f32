"""Pruning by the rank of feature maps.

Lin, Ji, Wang, Zhang, Zhang, Tian, Shao, "HRank: Filter Pruning using High-Rank Feature Map",
2020, arXiv:2002.10179.
"""

from collections.abc import Sequence
from typing import Literal, final

from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.registry import method
from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.prune.criteria.activation import average_maps
from tersenet.prune.criteria.maps import mean_rank
from tersenet.prune.criteria.observe import ObservedScore

__all__ = ["HRank"]


@final
@method("hrank")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class HRank(ObservedScore):
    """Scores a unit by the mean rank of its feature maps on calibration data.

    The map is the layer's output after its batch norm, and after
    a ReLU of its own unless `rectified` is off; averaged over the layers that produce the unit.
    Of a linear layer the rank is 1 or 0. Needs data, no targets.
    """

    rectified: bool = True
    """Whether the map is max(output, 0), as the paper's are."""
    scope: Literal["global", "layer"] = "layer"
    """Ranks are bounded by the size of the maps: units compete within each group."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns the mean rank for each unit of each group.

        Raises:
            DataError: if there is no calibration data.
            StructureError: if a site cannot be watched.
        """
        return average_maps(self, subject, groups, mean_rank, rectified=self.rectified)
