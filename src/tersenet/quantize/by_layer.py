"""Methods whose layers can be given bits one by one: what mixed precision builds on."""

import abc
from collections.abc import Mapping
from typing import ClassVar, TypeVar

from torch.fx import GraphModule

from tersenet.core.method import Plan
from tersenet.core.types import Method
from tersenet.quantize.graph.structure import WeightSite

__all__ = ["ByLayer"]

P = TypeVar("P", bound=Plan)


class ByLayer(Method[P]):
    """Quantises each layer with bits of its own."""

    bits_option: ClassVar[str]
    """Which option tells the bits of all weights: it gives way to those of each layer."""
    mixes_float: ClassVar[bool] = False
    """Whether single layers can stay in float, as a budget of time wants."""

    @abc.abstractmethod
    def layers(self, module: GraphModule) -> list[WeightSite]:
        """Returns the layers of a prepared graph that it will quantise."""

    @abc.abstractmethod
    def with_bits(self, bits: Mapping[str, int | None]) -> "ByLayer[P]":
        """Returns the same with these bits of weights, by layer; None leaves one in float."""
