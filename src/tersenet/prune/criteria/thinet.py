"""ThiNet: greedy choice of channels by the error of the next layer.

Luo, Wu, Lin, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", 2017,
arXiv:1707.06342.
"""

from typing import final

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.registry import method
from tersenet.prune.criteria.reconstruction import ReconstructionScore, contributions, refit

__all__ = ["ThiNet", "removal_order", "thinet"]


@final
@method("thinet")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ThiNet(ReconstructionScore):
    """Scores a unit by when it goes if at each step the one goes whose loss adds least error.

    From T = ∅, the unit that makes |Σ_{c∈T} Z_c|² least joins T, Z_c being what the layers that
    read unit c make of it (the paper's equation 6). The score is the place in that order over
    the number of units.
    """

    def places(self, gram: Float[Tensor, "unit unit"]) -> Float[Tensor, " unit"]:
        """Returns each unit's place in the order of removal, from 0 to below 1."""
        found = torch.empty(len(gram), dtype=torch.float64)
        for place, unit in enumerate(removal_order(gram)):
            found[unit] = place / len(gram)
        return found


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


def thinet(
    x: Float[Tensor, "row channel"], weight: Float[Tensor, "output channel"], *, keep: int
) -> tuple[list[int], Float[Tensor, "output kept"]]:
    """Returns the `keep` channels of x that x Wᵀ is rebuilt from, and the weights on them."""
    order = removal_order(contributions(x.mT @ x, weight))
    kept = sorted(order[len(order) - keep :])
    return kept, refit(x, weight, kept)
