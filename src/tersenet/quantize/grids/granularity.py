"""What shares a scale: all of a tensor, one output channel, or a few values of one."""

import abc
from typing import Annotated, ClassVar, Final, TypeAlias, final

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from tersenet.core.entry import Part
from tersenet.core.parts import Parts

__all__ = ["GRANULARITIES", "AnyGranularity", "Granularity", "ByChannel", "ByGroup", "ByTensor"]

GRANULARITIES: Final[Parts[type["Granularity"]]] = Parts(
    "granularity", package="tersenet.quantize.grids.granularity", plugins="tersenet.granularities"
)


class Granularity(abc.ABC):
    """Which values of a tensor share a scale."""

    name: ClassVar[str]

    @property
    def group(self) -> int | None:
        """How many values of a channel share a scale; None where a channel has one at most."""
        return None

    @property
    def text(self) -> str:
        """What follows "per", for a person."""
        return self.name

    @abc.abstractmethod
    def rows(self, x: Tensor, *, axis: int) -> Tensor:
        """Returns `x` with the values that share a scale side by side, in the last dimension.

        The others are those of the scale: none, (channel), or (channel, group). `axis` is the
        output channel's in `x`.
        """

    @classmethod
    def of_group(cls, size: int) -> "Granularity":
        """Returns what an edit tells by this name and `size`, the `group` it had."""
        del size
        return cls()


AnyGranularity: TypeAlias = Annotated[Granularity, Part("granularity", lambda: GRANULARITIES)]


@final
@GRANULARITIES.register("tensor")
@dataclass(frozen=True, config={"extra": "forbid"})
class ByTensor(Granularity):
    """One scale for all of it."""

    def rows(self, x: Tensor, *, axis: int) -> Tensor:
        """Returns all values in one row."""
        del axis
        return x.flatten()


@final
@GRANULARITIES.register("channel")
@dataclass(frozen=True, config={"extra": "forbid"})
class ByChannel(Granularity):
    """A scale for each output channel (Krishnamoorthi 2018, arXiv:1806.08342)."""

    def rows(self, x: Tensor, *, axis: int) -> Tensor:
        """Returns (channel, value)."""
        return x.transpose(0, axis).flatten(1) if x.ndim > 1 else x[:, None]


@final
@GRANULARITIES.register("group")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ByGroup(Granularity):
    """A scale for each so many weights of a channel; such layers compute in float."""

    size: int = Field(default=32, ge=2)
    """Weights that share a scale; a channel's last group may have fewer."""

    @property
    def group(self) -> int:
        """The size."""
        return self.size

    @property
    def text(self) -> str:
        """How many values."""
        return f"{self.size} values"

    def rows(self, x: Tensor, *, axis: int) -> Tensor:
        """Returns (channel, group, value)."""
        rows = ByChannel().rows(x, axis=axis)
        # Zeros are on every grid, so filling up with them moves no range and adds no error.
        return functional.pad(rows, (0, -rows.shape[1] % self.size)).unflatten(1, (-1, self.size))

    @classmethod
    def of_group(cls, size: int) -> "ByGroup":
        """Returns groups of that size."""
        return cls(size=size)
