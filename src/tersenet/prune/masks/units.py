"""The units that a network's weights are cut into: scored, counted, zeroed."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tersenet.core.types import Skip
from tersenet.errors import StructureError
from tersenet.graph import Site
from tersenet.graph.reading import tensors_of
from tersenet.prune.masks.patterns import UnitLayout, layout, lowest, n_of_m

__all__ = ["Units", "cut", "magnitudes", "zero_"]


@final
@dataclass(frozen=True)
class Units:
    """One weight, and how it is cut."""

    site: str
    tensor: str
    shape: tuple[int, ...]
    layout: UnitLayout
    at_most: int | None = None
    """Of a pattern n:m, how many weights each group keeps; None where units go whole."""

    @property
    def weights(self) -> int:
        """Weights in all."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """Units in all."""
        return self.layout.units

    @property
    def unit_weights(self) -> int:
        """Weights of one unit."""
        return self.weights // self.count


def cut(
    model: nn.Module,
    sites: Iterable[Site],
    pattern: str | tuple[int, int],
    why_not: Callable[[Site], str | None] = lambda site: None,
) -> tuple[list[Units], list[Skip]]:
    """Returns the weights of `sites` cut by a pattern, and the sites left alone, with reasons."""
    tensors, pieces, skips = tensors_of(model), [], []
    for site in {site.tensor: site for site in sites}.values():
        weight = tensors[site.tensor]
        reason = why_not(site)
        if reason is None and not isinstance(weight, nn.Parameter):
            reason = "its weight is no parameter"
        if reason is None and site.filter_dim is None and pattern != "element":
            reason = "its weight is computed from others: only single ones can be masked"
        if reason is None:
            try:
                whole = layout(tuple(weight.shape), pattern, filter_dim=site.filter_dim or 0)
            except StructureError as error:
                reason = str(error)
            else:
                ratio = n_of_m(pattern)
                units = Units(
                    site=site.layer.site,
                    tensor=site.tensor,
                    shape=tuple(weight.shape),
                    layout=whole,
                    at_most=ratio.n if ratio else None,
                )
                if units.count > 1 or ratio:
                    pieces.append(units)
                    continue
                reason = "has a single unit"
        skips.append(Skip(site.layer.site, reason))
    return pieces, skips


def magnitudes(weight: Tensor, units: Units) -> Float[Tensor, " unit"]:
    """Returns the mean absolute weight of each unit."""
    return units.layout.rows(weight).abs().float().mean(1)


@torch.no_grad()
def zero_(weight: Tensor, units: Units, count: int) -> None:
    """Zeroes the `count` units of least magnitude, in place; of n:m all but n in each group."""
    rows = units.layout.rows(weight).abs()
    if units.at_most is None:
        gone = lowest(magnitudes(weight, units), count)[:, None].expand_as(rows)
    else:
        ranks = rows.sort(dim=1, descending=True, stable=True).indices.argsort(1)
        gone = ranks >= units.at_most
    weight.masked_fill_(units.layout.weight(gone, weight.shape), 0)
