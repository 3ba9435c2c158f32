"""ThiNet: greedy choice of channels by the error of the next layer.

Luo, Wu, Lin, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", 2017,
arXiv:1707.06342.
"""

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.prune.criteria.observe import calibration_of
from tersenet.prune.criteria.reconstruction import contributions, grams, refit, why_not_rebuilt
from tersenet.prune.criterion import Criterion, Needs, Scope, criterion

__all__ = ["ThiNet", "removal_order", "thinet"]


@final
@criterion("thinet")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ThiNet(Criterion):
    """Scores a unit by when it goes if at each step the one goes whose loss adds least error.

    From T = ∅, the unit that makes |Σ_{c∈T} Z_c|² least joins T, Z_c being what the layers that
    read unit c make of it (the paper's equation 6). The score is the place in that order over
    the number of units.
    """

    needs: ClassVar[Needs] = Needs.INPUTS
    ordinal: ClassVar[bool] = True
    usual_scope: ClassVar[Scope] = "layer"

    batches: int = Field(default=10, gt=0)
    """Calibration batches to look at, at most."""
    positions: int = Field(default=10, ge=1)
    """Of the output, drawn at random from every sample."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns each unit's place in the order of removal, from 0 to below 1, by group."""
        data = calibration_of(self, subject, self.batches)
        products = grams(subject.model, groups, data, positions=self.positions)
        return {name: _places(gram) for name, gram in products.items()}

    def why_not(self, group: ChannelGroup) -> str | None:
        """Returns why no layer can be rebuilt from the group's units, if so."""
        return super().why_not(group) or why_not_rebuilt(group)


def removal_order(gram: Float[Tensor, "unit unit"]) -> list[int]:
    """Returns the units in the order in which they go, greedily by 1_Tᵀ G 1_T."""
    added = gram.diagonal().clone()  # what unit i adds: G_ii + 2 Σ_{c∈T} G_ic
    order = []
    for _ in range(len(gram)):
        unit = int(added.argmin())
        order.append(unit)
        added += 2 * gram[unit]
        added[unit] = torch.inf
    return order


def _places(gram: Float[Tensor, "unit unit"]) -> Float[Tensor, " unit"]:
    """Returns each unit's place in the order of removal, over their number."""
    places = torch.empty(len(gram), dtype=torch.float64)
    for place, unit in enumerate(removal_order(gram)):
        places[unit] = place / len(gram)
    return places


def thinet(
    x: Float[Tensor, "row channel"], weight: Float[Tensor, "output channel"], *, keep: int
) -> tuple[list[int], Float[Tensor, "output kept"]]:
    """Returns the `keep` channels of x that x Wᵀ is rebuilt from, and the weights on them."""
    order = removal_order(contributions(x.mT @ x, weight))
    kept = sorted(order[len(order) - keep :])
    return kept, refit(x, weight, kept)
