"""How a tensor is stored as integers: bits, levels around zero, and what shares a scale."""

from typing import Literal, TypeAlias, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.quantize.linear import Grid, Mode, asymmetric, symmetric

__all__ = ["Per", "Scheme"]

Per: TypeAlias = Literal["tensor", "channel", "group"]
"""What shares a scale: all of a tensor, one output channel, or a few values of one."""


@final
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Scheme:
    """Bits, mode and granularity of one tensor's grid."""

    bits: int = Field(default=8, ge=2, le=16)
    mode: Mode = "restricted"
    per: Per = "channel"
    group: int = Field(default=32, ge=2)
    """Values of a channel that share a scale, where `per` is group."""

    @property
    def text(self) -> str:
        """As a person would say it."""
        sign = "uint" if self.mode == "asymmetric" else "int"
        what = f"{self.group} values" if self.per == "group" else self.per
        return f"{sign}{self.bits} per {what}"

    @property
    def high(self) -> int:
        """The largest level."""
        return 2**self.bits - 1 if self.mode == "asymmetric" else 2 ** (self.bits - 1) - 1

    def grid(self, weight: Tensor, *, axis: int = 0) -> Grid:
        """Returns the grid that holds all of `weight`, whose output channel is `axis`.

        A channel or group of zeros, as pruning by masks leaves it, gets the whole tensor's
        range; where all of it is zero, which any grid holds, the range of 1.

        Raises:
            QuantizeError: if `weight` is not finite.
        """
        low, high = self.extremes(weight, axis=axis)
        return self.between(low, high)

    def extremes(self, weight: Tensor, *, axis: int = 0) -> tuple[Tensor, Tensor]:
        """Returns the least and largest value of all that share a scale."""
        found = weight.detach()
        whole = found.amin(), found.amax()
        if not found.any():
            whole = whole[0], torch.ones_like(whole[1])
        if self.per == "tensor":
            return whole
        rows = found.transpose(0, axis).flatten(1) if found.ndim > 1 else found[:, None]
        if self.per == "group":
            short = -rows.shape[1] % self.group
            # Zeros are on every grid, so filling up with them moves no range.
            rows = torch.nn.functional.pad(rows, (0, short)).unflatten(1, (-1, self.group))
        low, high = rows.amin(-1), rows.amax(-1)
        empty = (low == 0) & (high == 0)
        return torch.where(empty, whole[0], low), torch.where(empty, whole[1], high)

    def between(self, low: Tensor, high: Tensor) -> Grid:
        """Returns the grid from `low` to `high`: around zero unless asymmetric.

        Raises:
            QuantizeError: if a range is not finite or of zero width.
        """
        group = self.group if self.per == "group" else None
        if self.mode == "asymmetric":
            return asymmetric(low, high, bits=self.bits, group=group)
        magnitude = torch.maximum(low.abs(), high.abs())
        return symmetric(magnitude, bits=self.bits, mode=self.mode, group=group)
