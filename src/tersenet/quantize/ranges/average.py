"""The mean of each sample's ends: one outlier among the samples moves it little (deck 3's avg)."""

from typing import ClassVar, final

from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.base import RANGES, Range
from tersenet.quantize.ranges.observer import Observer
from tersenet.quantize.ranges.statistics import Statistics

__all__ = ["AverageRange", "SampleObserver"]


@final
class SampleObserver(Observer):
    """Keeps the means over samples of each sample's least and largest value."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = 0
        self.low = self.high = 0.0
        """Sums over samples."""

    def observe(self, x: Tensor) -> None:
        """Takes one batch into account, sample first."""
        super().observe(x)
        rows = x.flatten(1) if x.ndim > 1 else x[:, None]
        self.low += float(rows.amin(1).sum())
        self.high += float(rows.amax(1).sum())
        self.samples += len(rows)

    @property
    def avg_min(self) -> float:
        """The mean of the least values."""
        return self.low / self.samples

    @property
    def avg_max(self) -> float:
        """The mean of the largest values."""
        return self.high / self.samples


@final
@RANGES.register("average")
@dataclass(frozen=True, config={"extra": "forbid"})
class AverageRange(Range[SampleObserver | Statistics]):
    """From the mean least to the mean largest value of a sample."""

    of_statistics: ClassVar[bool] = True
    observes: ClassVar[type[Observer]] = SampleObserver

    def ends(self, seen: SampleObserver | Statistics, scheme: Scheme) -> tuple[float, float]:
        """Returns the two means."""
        del scheme
        return seen.avg_min, seen.avg_max
