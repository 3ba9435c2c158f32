"""Pruning by the size of activations, or by how often they are zero (APoZ).

Hu, Peng, Tai, Tang, "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient
Deep Architectures", 2016, arXiv:1607.03250; the mean of activations as in Molchanov et al.,
2016, arXiv:1611.06440.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.types import Batch, Subject
from tersenet.graph import ChannelGroup
from tersenet.prune.criteria.maps import average_zeros, feature_map_norm
from tersenet.prune.criteria.observe import calibration_of, observe, to_units
from tersenet.prune.criterion import Criterion, Needs, Scope, criterion

__all__ = ["Activation", "average_maps"]

_Statistic = Callable[[Tensor], Tensor]


def _share_active(maps: Tensor) -> Tensor:
    return 1 - average_zeros(maps)


_STATISTICS: Final[Mapping[str, _Statistic]] = {"mean": feature_map_norm, "apoz": _share_active}


@final
@criterion("activation")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Activation(Criterion):
    """Scores a unit by its activations on calibration data, mean|a| or 1 − APoZ.

    a is the layer's output after its batch norm, and after a ReLU of its own unless `rectified`
    is off; averaged over samples, positions and the layers that produce the unit.
    """

    needs: ClassVar[Needs] = Needs.INPUTS
    # Activations of layers differ in size for other reasons.
    usual_scope: ClassVar[Scope] = "layer"

    batches: int = Field(default=10, gt=0)
    """Calibration batches to look at, at most."""
    by: Literal["mean", "apoz"] = "mean"
    """mean: the mean of |a|; apoz: the share of a that is not zero."""
    rectified: bool = True
    """Whether a is max(output, 0), as where a ReLU follows; without, hardly anything is zero."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns the statistic for each unit of each group."""
        data = calibration_of(self, subject, self.batches)
        return average_maps(subject, groups, data, _STATISTICS[self.by], rectified=self.rectified)


def average_maps(
    subject: Subject,
    groups: Sequence[ChannelGroup],
    data: Sequence[Batch],
    statistic: _Statistic,
    *,
    rectified: bool,
) -> dict[str, Float[Tensor, " unit"]]:
    """Returns a statistic of channels, averaged over samples, sites and a unit's channels."""
    total = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
    weight = {name: torch.zeros_like(summed) for name, summed in total.items()}
    with observe(subject.model, groups) as watch, torch.no_grad():
        for inputs, _ in data:
            watch.run(inputs)
            for group in groups:
                for site in group.sources:
                    for maps in watch.maps(site):
                        values = statistic(maps.clamp_min(0) if rectified else maps)
                        count = torch.full_like(values, len(inputs))
                        total[group.name] += to_units(group, site, values * count)
                        weight[group.name] += to_units(group, site, count)
    return {name: total[name] / weight[name].clamp_min(1) for name in total}
