"""The range of least expected squared error, of a Laplace or Gauss distribution like the values.

Banner et al., "Post-training 4-bit quantization of convolution networks for rapid-deployment",
2018, arXiv:1810.05723.
"""

from typing import ClassVar, final

from pydantic.dataclasses import dataclass

from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.base import RANGES, Range
from tersenet.quantize.ranges.clipping import aciq_range
from tersenet.quantize.ranges.histogram import Histogram
from tersenet.quantize.ranges.statistics import Statistics

__all__ = ["Aciq"]


@final
@RANGES.register("aciq")
@dataclass(frozen=True, config={"extra": "forbid"})
class Aciq(Range[Histogram | Statistics]):
    """ACIQ's bounds, but no more than was seen: for few bits."""

    of_statistics: ClassVar[bool] = True

    def observer(self) -> Histogram:
        """Returns a histogram."""
        return Histogram()

    def ends(self, seen: Histogram | Statistics, scheme: Scheme) -> tuple[float, float]:
        """Returns the bounds for the likelier of the two distributions."""
        return aciq_range(
            minimum=seen.min,
            maximum=seen.max,
            mean=seen.mean,
            std=seen.std,
            b=seen.b,
            bits=scheme.bits,
        )
