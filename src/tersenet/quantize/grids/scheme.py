"""How a tensor is stored as integers: bits, levels around zero, and what shares a scale."""

from collections.abc import Mapping
from typing import Any, Final, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.quantize.grids.granularity import GRANULARITIES, AnyGranularity, ByChannel
from tersenet.quantize.grids.linear import Grid, Mode, asymmetric, symmetric

__all__ = ["Scheme"]

_NO_GROUP: Final = 32
"""What edits say of a group where there is none."""


@final
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Scheme:
    """Bits, mode and granularity of one tensor's grid."""

    bits: int = Field(default=8, ge=2, le=16)
    mode: Mode = "restricted"
    per: AnyGranularity = Field(default=ByChannel())
    """What shares a scale."""

    @property
    def text(self) -> str:
        """As a person would say it."""
        return f"{'uint' if self.mode == 'asymmetric' else 'int'}{self.bits} per {self.per.text}"

    @property
    def data(self) -> dict[str, Any]:
        """What an edit says of it."""
        return {
            "bits": self.bits,
            "mode": self.mode,
            "per": self.per.name,
            "group": self.per.group or _NO_GROUP,
        }

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> "Scheme":
        """Returns the scheme that an edit tells of, as `data` wrote it."""
        per = GRANULARITIES[data["per"]].of_group(data["group"])
        return cls(bits=data["bits"], mode=data["mode"], per=per)

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
        whole = weight.detach()
        least, largest = whole.amin(), whole.amax()
        if not whole.any():
            largest = torch.ones_like(largest)
        rows = self.per.rows(whole, axis=axis)
        low, high = rows.amin(-1), rows.amax(-1)
        empty = (low == 0) & (high == 0)
        return torch.where(empty, least, low), torch.where(empty, largest, high)

    def between(self, low: Tensor, high: Tensor) -> Grid:
        """Returns the grid from `low` to `high`: around zero unless asymmetric.

        Raises:
            QuantizeError: if a range is not finite or of zero width.
        """
        group = self.per.group
        if self.mode == "asymmetric":
            return asymmetric(low, high, bits=self.bits, group=group)
        magnitude = torch.maximum(low.abs(), high.abs())
        return symmetric(magnitude, bits=self.bits, mode=self.mode, group=group)
