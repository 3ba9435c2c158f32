"""The middle share of values: a few outliers then no longer coarsen every step."""

from typing import ClassVar, final

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.base import RANGES, Range
from tersenet.quantize.ranges.histogram import Histogram
from tersenet.quantize.ranges.observer import Observer

__all__ = ["Percentile"]


@final
@RANGES.register("percentile")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Percentile(Range[Histogram]):
    """All but the tails on either side. Zeros count: after a ReLU the lower end stays at zero."""

    observes: ClassVar[type[Observer]] = Histogram

    share: float = Field(default=99.99, ge=50, le=100)
    """Of values kept, in percent: 99.99 clips half a hundredth of a percent at each end."""

    def ends(self, seen: Histogram, scheme: Scheme) -> tuple[float, float]:
        """Returns the two percentiles, to the width of a bin."""
        del scheme
        tail = (1 - self.share / 100) / 2
        running = np.cumsum(seen.counts)
        low = int(np.searchsorted(running, tail * running[-1], side="right"))
        high = int(np.searchsorted(running, (1 - tail) * running[-1], side="left"))
        edges = seen.edges
        return max(seen.min, float(edges[low])), min(seen.max, float(edges[high + 1]))
