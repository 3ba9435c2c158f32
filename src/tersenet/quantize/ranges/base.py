"""What a range of activations is, and which there are."""

import abc
from typing import Annotated, Any, ClassVar, Final, Generic, TypeAlias, TypeVar

from tersenet.core.entry import Part
from tersenet.core.parts import Parts
from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.observer import Observer
from tersenet.quantize.ranges.statistics import Statistics

__all__ = ["RANGES", "AnyRange", "Range"]

RANGES: Final[Parts[type["Range[Any]"]]] = Parts(
    "range", package="tersenet.quantize.ranges", plugins="tersenet.ranges"
)

S = TypeVar("S", bound=Observer | Statistics)


class Range(abc.ABC, Generic[S]):
    """Decides which part of an activation's values its grid spans."""

    name: ClassVar[str]
    of_statistics: ClassVar[bool] = False
    """Whether a file of `Statistics` tells all that it needs."""
    observes: ClassVar[type[Observer]] = Observer
    """What is kept of an activation for it to decide by."""

    def observer(self) -> Observer:
        """Returns a fresh observer of one activation."""
        return self.observes()

    @abc.abstractmethod
    def ends(self, seen: S, scheme: Scheme) -> tuple[float, float]:
        """Returns the least and the largest value to represent.

        Args:
            seen: the observer after the last batch, or statistics; not all values were alike.
            scheme: bits and mode of the grid that is to span the range.
        """


AnyRange: TypeAlias = Annotated[Range[Any], Part("range", lambda: RANGES)]
