"""What a rounding is, which there are, and what one is given."""

import abc
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, TypeAlias, final

from torch import Tensor
from torch.fx import Node

from tersenet.core.entry import Part
from tersenet.core.parts import Parts
from tersenet.quantize.graph.insert import ValueRange
from tersenet.quantize.graph.structure import WeightSite
from tersenet.quantize.grids.linear import Grid
from tersenet.quantize.rounding.lockstep import Env, Stretch

__all__ = ["ROUNDINGS", "AnyRounding", "Piece", "Rounded", "Rounding"]

ROUNDINGS: Final[Parts[type["Rounding"]]] = Parts(
    "rounding", package="tersenet.quantize.rounding", plugins="tersenet.roundings"
)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Weights that are rounded together, and all that is known where they stand."""

    stretch: Stretch
    """The nodes of the graph, from the first weight to what the rest of the network reads."""
    sites: Mapping[Node, WeightSite]
    """By the weight's node, as the next two."""
    weights: Mapping[Node, Tensor]
    """The weights to round, in float."""
    grids: Mapping[Node, Grid]
    """What weights are rounded to."""
    original: Env
    """What the float network has computed before the stretch, batch by batch."""
    quantised: Env
    """What the network has whose earlier layers are rounded."""
    ranges: Mapping[Node, ValueRange]
    """Of activations, by node."""
    free: Collection[Node]
    """The activations whose ranges may change."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Rounded:
    """What a rounding came to."""

    weights: Mapping[Node, Tensor]
    """Values on the grids."""
    ranges: Mapping[Node, ValueRange] = field(default_factory=dict)
    """Of activations that it changed along with the weights."""


class Rounding(abc.ABC):
    """Decides which level of its grid each weight takes."""

    name: ClassVar[str]
    over: ClassVar[Literal["layer", "block"]] = "layer"
    """What is rounded together."""
    needs_data: ClassVar[bool] = True
    """Whether it looks at what was computed; else it is the same without calibration data."""

    @abc.abstractmethod
    def round(self, piece: Piece) -> Rounded:
        """Returns the weights of `piece` on their grids.

        Raises:
            ResourceError: if there is not the memory for it.
        """


AnyRounding: TypeAlias = Annotated[Rounding, Part("rounding", lambda: ROUNDINGS)]
