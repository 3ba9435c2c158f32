"""The weights that belong to a unit."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from tersenet.graph import ChannelGroup

__all__ = ["filter_rows", "unit_sums"]


def filter_rows(group: ChannelGroup, tensors: Mapping[str, Tensor]) -> Float[Tensor, "unit weight"]:
    """Returns the weights of each unit's filters, of all sites that produce it, in one row.

    Where a site gives some units fewer filters, their rows are filled up with zeros.
    """
    columns = []
    for member in group.filters:
        weight = tensors[member.tensor].detach().double().cpu()
        filters = weight.movedim(member.dim, 0).flatten(1)  # (filter, weight)
        most = max(map(len, member.indices), default=0)
        rows = torch.zeros(group.size, most * filters.shape[1], dtype=torch.float64)
        for unit, own in enumerate(member.indices):
            values = filters[list(own)].flatten()
            rows[unit, : len(values)] = values
        columns.append(rows)
    return torch.cat(columns, 1)


def unit_sums(group: ChannelGroup, tensors: Mapping[str, Tensor]) -> Float[Tensor, " unit"]:
    """Returns the sum over each unit's filters, of all sites that produce it."""
    return filter_rows(group, tensors).sum(1)
