"""The grid of a weight: all of it, or the range of least squared error."""

from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from tersenet.errors import QuantizeError
from tersenet.quantize.linear import Grid, round_trip
from tersenet.quantize.scheme import Scheme
from tersenet.quantize.structure import Site

__all__ = ["WeightRange", "weight_grid"]

WeightRange: TypeAlias = Literal["min-max", "mse"]

_SHARES: Final = torch.linspace(1, 0.3, 71)


def weight_grid(weight: Tensor, site: Site, scheme: Scheme, *, kind: WeightRange) -> Grid:
    """Returns the grid of a site's weight.

    Raises:
        QuantizeError: if the weight is not finite.
    """
    try:
        if kind == "min-max":
            return scheme.grid(weight, axis=site.axis)
        return _least_error(weight.detach(), site.axis, scheme)
    except QuantizeError as error:
        raise QuantizeError(f"the weight of {site.name}: {error}") from error


def _least_error(weight: Tensor, axis: int, scheme: Scheme) -> Grid:
    """Each scale by itself: the best of 71 shares of what it has to hold."""
    low, high = scheme.extremes(weight, axis=axis)
    best = torch.ones_like(low)
    least = torch.full_like(low, float("inf"))
    for share in _SHARES:
        rounded = round_trip(weight, scheme.between(low * share, high * share), axis=axis)
        error = _summed((rounded - weight).square(), axis, scheme)
        best = torch.where(error < least, share, best)
        least = torch.minimum(error, least)
    return scheme.between(low * best, high * best)


def _summed(error: Tensor, axis: int, scheme: Scheme) -> Tensor:
    """Over all values that share a scale."""
    if scheme.per == "tensor":
        return error.sum()
    rows = error.transpose(0, axis).flatten(1)
    if scheme.per == "group":
        rows = functional.pad(rows, (0, -rows.shape[1] % scheme.group))
        rows = rows.unflatten(1, (-1, scheme.group))
    return rows.sum(-1)
