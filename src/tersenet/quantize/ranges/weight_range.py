"""What a range of weights is, the plainest one, and the grid of a layer's weight by any."""

import abc
from typing import Annotated, ClassVar, Final, TypeAlias, final

from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.entry import Part
from tersenet.core.parts import Parts
from tersenet.errors import QuantizeError
from tersenet.quantize.graph.structure import WeightSite
from tersenet.quantize.grids.linear import Grid
from tersenet.quantize.grids.scheme import Scheme

__all__ = ["WEIGHT_RANGES", "AnyWeightRange", "WeightRange", "WholeWeight", "weight_grid"]

WEIGHT_RANGES: Final[Parts[type["WeightRange"]]] = Parts(
    "weight range", package="tersenet.quantize.ranges", plugins="tersenet.weight_ranges"
)


class WeightRange(abc.ABC):
    """Decides which part of a weight's values its grid spans, scale by scale."""

    name: ClassVar[str]

    @abc.abstractmethod
    def grid(self, weight: Tensor, scheme: Scheme, *, axis: int) -> Grid:
        """Returns the grid of `weight`, whose output channel is `axis`.

        Raises:
            QuantizeError: if the weight is not finite.
        """


@final
@WEIGHT_RANGES.register("min-max")
@dataclass(frozen=True, config={"extra": "forbid"})
class WholeWeight(WeightRange):
    """From the least to the largest of all that share a scale."""

    def grid(self, weight: Tensor, scheme: Scheme, *, axis: int) -> Grid:
        """Returns the scheme's own grid."""
        return scheme.grid(weight, axis=axis)


AnyWeightRange: TypeAlias = Annotated[WeightRange, Part("weight range", lambda: WEIGHT_RANGES)]


def weight_grid(weight: Tensor, site: WeightSite, scheme: Scheme, by: WeightRange) -> Grid:
    """Returns the grid of a site's weight.

    Raises:
        QuantizeError: if the weight is not finite, naming the site.
    """
    try:
        return by.grid(weight.detach(), scheme, axis=site.axis)
    except QuantizeError as error:
        raise QuantizeError(f"the weight of {site.name}: {error}") from error
