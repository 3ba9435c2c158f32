"""The range of an activation, observed batch by batch.

Memory is bounded by a batch: beyond it an observer keeps a histogram of fixed size, whose bins
are merged in pairs when a value falls outside. Same batches in the same order, same range.
"""

import abc
from collections.abc import Callable
from typing import ClassVar, Final, Literal, TypeAlias, final

import numpy as np
from torch import Tensor

from tersenet.errors import QuantizeError
from tersenet.quantize.clipping import aciq_range

__all__ = ["MinMax", "MinimumError", "Observer", "Percentile", "RangeKind", "observer"]

RangeKind: TypeAlias = Literal[
    "min-max", "moving-average", "average", "percentile", "deviations", "mse", "kl", "aciq"
]

BINS: Final = 4096
"""Of a histogram: a bin is at most 1/8 of an 8-bit step of the range it covers."""


class Observer(abc.ABC):
    """Sees batches of one value and decides its range."""

    def __init__(self) -> None:
        self.minimum = float("inf")
        self.maximum = float("-inf")

    def observe(self, x: Tensor) -> None:
        """Takes one batch into account.

        Raises:
            QuantizeError: if it holds NaN or infinity.
        """
        low, high = (float(end) for end in x.aminmax())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise QuantizeError("activations are NaN or infinite")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    @property
    def constant(self) -> bool:
        """Whether only one distinct value, or none, was seen."""
        return not self.minimum < self.maximum

    @abc.abstractmethod
    def range(self) -> tuple[float, float]:
        """Returns the least and the largest value to represent."""


@final
class MinMax(Observer):
    """Everything that was seen: nothing is clipped."""

    def range(self) -> tuple[float, float]:
        """Returns the least and the largest value seen."""
        return self.minimum, self.maximum


@final
class MovingAverage(Observer):
    """Ends that follow each batch's by a hundredth, as training does (Jacob et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: tuple[float, float] | None = None

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        low, high = (float(end) for end in x.aminmax())
        before = self.ends or (low, high)
        self.ends = tuple(  # type: ignore[assignment]
            old + 0.01 * (new - old) for old, new in zip(before, (low, high), strict=True)
        )

    def range(self) -> tuple[float, float]:
        """Returns the averaged ends."""
        assert self.ends is not None
        return self.ends


@final
class Average(Observer):
    """The mean over samples of each sample's least and largest value (deck 3's avg)."""

    def __init__(self) -> None:
        super().__init__()
        self.samples = 0
        self.low = self.high = 0.0

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        rows = x.flatten(1) if x.ndim > 1 else x[:, None]
        self.low += float(rows.amin(1).sum())
        self.high += float(rows.amax(1).sum())
        self.samples += len(rows)

    def range(self) -> tuple[float, float]:
        """Returns the two means."""
        return self.low / self.samples, self.high / self.samples


class _Histogram(Observer):
    """Counts per bin of width 2**k: rounding the width up makes merging bins exact."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 0.0
        self.first = 0
        """Index of the first bin: it covers [first, first + 1) * width."""
        self.counts = np.zeros(BINS, np.int64)

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        values = x.detach().numpy().ravel().astype(np.float64)
        if self.width == 0.0:
            # A first batch of one value alone has no spread: float32 could not part two closer.
            largest = max(-self.minimum, self.maximum)
            tiny = float(np.finfo(np.float32).tiny)
            spread = max(self.maximum - self.minimum, largest * 2**-20, tiny)
            self.width = 2.0 ** np.ceil(np.log2(spread / (BINS // 2)))
            self.first = int(np.floor(self.minimum / self.width))
        self._cover(self.minimum, self.maximum)
        index = np.floor(values / self.width).astype(np.int64) - self.first
        self.counts += np.bincount(index, minlength=BINS)

    def _cover(self, low: float, high: float) -> None:
        while True:
            first, last = int(np.floor(low / self.width)), int(np.floor(high / self.width))
            if last - first < BINS:
                break
            self._merge()
        if first < self.first or last >= self.first + BINS:
            shifted = np.zeros_like(self.counts)
            filled = np.flatnonzero(self.counts)
            shifted[filled + self.first - first] = self.counts[filled]
            self.counts, self.first = shifted, first

    def _merge(self) -> None:
        """Doubles the width: bins 2i and 2i + 1 become bin i."""
        merged = np.zeros_like(self.counts)
        index = (np.arange(BINS) + self.first) // 2 - self.first // 2
        np.add.at(merged, index, self.counts)
        self.counts, self.width, self.first = merged, 2 * self.width, self.first // 2

    @property
    def edges(self) -> np.ndarray:
        """Of the bins, one more than there are."""
        return (self.first + np.arange(BINS + 1)) * self.width

    @property
    def filled(self) -> tuple[np.ndarray, np.ndarray]:
        """The centres of the bins that hold something, and how much each holds."""
        filled = np.flatnonzero(self.counts)
        centres = (self.edges[filled] + self.edges[filled + 1]) / 2
        return np.clip(centres, self.minimum, self.maximum), self.counts[filled]


@final
class Percentile(_Histogram):
    """The middle share of values; the tails on either side are clipped.

    A few outliers then no longer coarsen every step. Zeros count: after a ReLU the lower end
    stays at zero.
    """

    def __init__(self, share: float) -> None:
        """`share` is in percent: 99.99 clips half a hundredth of a percent at each end."""
        super().__init__()
        self.share = share

    def range(self) -> tuple[float, float]:
        """Returns the two percentiles, to the width of a bin."""
        tail = (1 - self.share / 100) / 2
        running = np.cumsum(self.counts)
        low = int(np.searchsorted(running, tail * running[-1], side="right"))
        high = int(np.searchsorted(running, (1 - tail) * running[-1], side="left"))
        edges = self.edges
        return max(self.minimum, edges[low]), min(self.maximum, edges[high + 1])


_SHARES: Final = np.concatenate([np.linspace(1, 0.2, 80), np.geomspace(0.2, 1 / 64, 40)[1:]])
"""Of the largest magnitude: below a fifth lies what a single outlier leaves."""


class _Searched(_Histogram):
    """The best bound on magnitudes: an outlier at one end does not cut the other."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    @abc.abstractmethod
    def loss(self, centres: np.ndarray, counts: np.ndarray, levels: np.ndarray) -> float:
        """Returns what is lost if `levels`, units of one step, stand for the bins."""

    def range(self) -> tuple[float, float]:
        """Returns the best of the ranges that end at a share of the largest magnitude."""
        centres, counts = self.filled
        best, least = (self.minimum, self.maximum), np.inf
        largest = max(-self.minimum, self.maximum)
        for bound in _SHARES * largest:
            low, high = min(max(self.minimum, -bound), 0.0), max(min(self.maximum, bound), 0.0)
            step = (high - low) / (2**self.bits - 1)
            if step <= 0:
                continue
            zero = np.round(-low / step)
            levels = np.clip(np.round(centres / step) + zero, 0, 2**self.bits - 1)
            error = self.loss(centres / step, counts, levels - zero)
            error *= step * step if self.squared else 1
            if error < least:
                best, least = (low, high), error
        return best

    squared: ClassVar[bool] = False
    """Whether the loss grows with the square of the step."""


@final
class MinimumError(_Searched):
    """The range of least mean squared error, between clipping and rounding."""

    squared: ClassVar[bool] = True

    def loss(self, centres: np.ndarray, counts: np.ndarray, levels: np.ndarray) -> float:
        """Returns the sum of squared errors, in steps."""
        return float(counts @ np.square(levels - centres))


@final
class Divergence(_Searched):
    """The range whose levels say most about the values: least Kullback-Leibler divergence.

    Migacz, "8-bit Inference with TensorRT", 2017: the values inside the range, with what is
    clipped added to its ends, against each level's count spread evenly over its values.
    """

    def loss(self, centres: np.ndarray, counts: np.ndarray, levels: np.ndarray) -> float:
        """Returns the divergence in nats."""
        inside = np.abs(levels - centres) <= 0.5 + 1e-9
        if not inside.any():
            return float("inf")
        ends = centres < centres[inside][0], centres > centres[inside][-1]
        p = counts[inside].astype(np.float64)
        q = p.copy()
        p[0] += counts[ends[0]].sum()
        p[-1] += counts[ends[1]].sum()
        _, index, size = np.unique(levels[inside], return_inverse=True, return_counts=True)
        q = (np.bincount(index, q) / size)[index]
        p, q = p / p.sum(), q / q.sum()
        return float(np.sum(p * np.log(p / np.maximum(q, 1e-30))))


@final
class Moments(_Histogram):
    """Around the mean: that many standard deviations, or ACIQ's bound."""

    def __init__(self, *, bits: int, deviations: float | None) -> None:
        """Without `deviations` the bound is ACIQ's, for the likelier distribution."""
        super().__init__()
        self.bits = bits
        self.deviations = deviations

    def range(self) -> tuple[float, float]:
        """Returns the bounds, but no more than was seen."""
        centres, counts = self.filled
        mean = float(counts @ centres / counts.sum())
        spread = float(np.sqrt(counts @ np.square(centres - mean) / counts.sum()))
        if self.deviations is not None:
            reach = self.deviations * spread
            return max(self.minimum, mean - reach), min(self.maximum, mean + reach)
        return aciq_range(
            minimum=self.minimum,
            maximum=self.maximum,
            mean=mean,
            std=spread,
            b=float(counts @ np.abs(centres - mean) / counts.sum()),
            bits=self.bits,
        )


def observer(kind: RangeKind, *, percentile: float, bits: int, deviations: float = 4.0) -> Observer:
    """Returns a fresh observer; the numbers matter to the kinds named so."""
    table: dict[RangeKind, Callable[[], Observer]] = {
        "min-max": MinMax,
        "moving-average": MovingAverage,
        "average": Average,
        "percentile": lambda: Percentile(percentile),
        "deviations": lambda: Moments(bits=bits, deviations=deviations),
        "mse": lambda: MinimumError(bits),
        "kl": lambda: Divergence(bits),
        "aciq": lambda: Moments(bits=bits, deviations=None),
    }
    return table[kind]()
