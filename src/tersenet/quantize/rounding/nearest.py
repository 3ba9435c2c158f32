"""To the nearest level, halves to even."""

from typing import ClassVar, final

from pydantic.dataclasses import dataclass

from tersenet.quantize.grids.linear import round_trip
from tersenet.quantize.rounding.base import ROUNDINGS, Piece, Rounded, Rounding

__all__ = ["Nearest"]


@final
@ROUNDINGS.register("nearest")
@dataclass(frozen=True, config={"extra": "forbid"})
class Nearest(Rounding):
    """Each weight by itself: needs no data, and does at 8 bits."""

    needs_data: ClassVar[bool] = False

    def round(self, piece: Piece) -> Rounded:
        """Returns the nearest values."""
        return Rounded(
            weights={
                node: round_trip(weight, piece.grids[node], axis=piece.sites[node].axis)
                for node, weight in piece.weights.items()
            }
        )
