"""The figures of a run, read from its steps by index and batch size."""

import math
from collections.abc import Callable, Sequence
from typing import final

from tersenet.core.types import Cost, Energy, Latency, Score, Speedup, StepRecord, Unmeasured
from tersenet.report import quantities
from tersenet.report.figures import Interval, Missing, Number, figure

__all__ = ["Records", "median_interval"]


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of a median from order statistics.

    Distribution-free: the count of samples below the median is binomial(n, 1/2), here by its
    normal approximation (Conover, "Practical nonparametric statistics", section 3.2).
    """
    ordered, n = sorted(samples), len(samples)
    half = 1.959964 * math.sqrt(n) / 2
    low = max(0, math.ceil(n / 2 - half) - 1)
    high = min(n - 1, math.ceil(n / 2 + half) - 1)
    return ordered[low], ordered[high]


@final
class Records:
    """The figures of a run's steps, by step index and batch size."""

    def __init__(self, steps: Sequence[StepRecord], *, chosen: int = -1) -> None:
        self.steps = tuple(steps)
        inside = -len(self.steps) <= chosen < len(self.steps)
        self.chosen: int = chosen % len(self.steps) if inside else len(self.steps) - 1
        """Index of the step whose files are handed back."""
        found = {latency.batch for step in self.steps for latency in step.cost.latency}
        self.batches: tuple[int, ...] = tuple(
            batch
            for batch in sorted(found)
            if any(self.latency(index, batch) for index in range(len(self.steps)))
        )

    @property
    def metric(self) -> str:
        """What the scores count, top-1 for one."""
        return next((step.score.metric for step in self.steps if step.score), "quality")

    # -------------------------------------------------------------- cost

    def cost(self, step: int, name: str, write: Callable[[float], str]) -> Number:
        """A plain field of the cost: file_bytes, params, macs, nonzeros."""
        return figure(f"steps.{step}.cost.{name}", getattr(self.steps[step].cost, name), write)

    def file_bytes(self, step: int) -> Number:
        """Bytes of the deployable file."""
        return self.cost(step, "file_bytes", quantities.bytes_text)

    def file_bytes_exact(self, step: int) -> Number:
        """Bytes of the deployable file, to the last one."""
        return self.cost(step, "file_bytes", lambda value: f"{quantities.count(value)} B")

    def coded_bytes(self, step: int) -> Number:
        """Bytes of the entropy-coded file, where the step wrote one."""
        return self.cost(step, "coded_bytes", quantities.bytes_text)

    def macs(self, step: int) -> Number:
        """Multiply-accumulates of one sample."""
        return self.cost(step, "macs", quantities.si)

    def params(self, step: int) -> Number:
        """Parameters."""
        return self.cost(step, "params", quantities.count)

    def memory(self, step: int) -> Number:
        """Peak memory, or the reason why it is unknown."""
        found = self.steps[step].cost.peak_memory_bytes
        if isinstance(found, Unmeasured):
            return Missing(found.reason)
        return figure(f"steps.{step}.cost.peak_memory_bytes", found, quantities.bytes_text)

    def energy(self, step: int) -> Number:
        """Energy of one inference, or the reason why it is unknown."""
        found = self.steps[step].cost.energy
        if isinstance(found, Energy):
            return figure(f"steps.{step}.cost.energy.joules", found.joules, _millijoules)
        return Missing(found.reason)

    def seconds(self, step: int) -> Number:
        """Seconds spent planning, applying and proving."""
        return figure(f"steps.{step}.seconds", self.steps[step].seconds, quantities.seconds)

    def int8_share(self, step: int) -> Number:
        """Share of the MACs that run in int8 kernels."""
        share = self.steps[step].int8_share
        return figure(f"steps.{step}.int8_share", share, quantities.percent)

    # -------------------------------------------------------------- time

    def latency(self, step: int, batch: int) -> tuple[str, Latency] | None:
        """The latency measured at `batch` and its path, or None."""
        cost: Cost = self.steps[step].cost
        for index, latency in enumerate(cost.latency):
            if (
                latency.batch == batch
                and latency.samples_ms
                and all(map(math.isfinite, latency.samples_ms))
            ):
                return f"steps.{step}.cost.latency.{index}", latency
        return None

    def p50(self, step: int, batch: int) -> Interval:
        """Median latency with its 95 % interval."""
        found = self.latency(step, batch)
        if found is None:
            return _NO_LATENCY
        path, latency = found
        low, high = median_interval(latency.samples_ms)
        write = quantities.milliseconds
        return Interval(
            figure(f"p50({path})", latency.p50_ms, write),
            figure(f"p50_low({path})", low, write),
            figure(f"p50_high({path})", high, write),
        )

    def p95(self, step: int, batch: int) -> Number:
        """95th percentile of the latency."""
        found = self.latency(step, batch)
        if found is None:
            return _NO_LATENCY.middle
        return figure(f"p95({found[0]})", found[1].p95_ms, quantities.milliseconds)

    def speedup(self, step: int, batch: int) -> Interval:
        """Speed-up over the original with its 95 % interval, from interleaved samples."""
        found = self._speedup(step, batch)
        if found is None:
            return _NO_SPEEDUP
        path, speedup = found
        return Interval(
            figure(f"{path}.ratio", speedup.ratio, quantities.times),
            figure(f"{path}.low", speedup.low, quantities.times),
            figure(f"{path}.high", speedup.high, quantities.times),
        )

    def beside(self, step: int, batch: int) -> Number:
        """Median latency of the original's file while it was timed in turns with the step's."""
        found = self._speedup(step, batch)
        if found is None or not found[1].baseline.samples_ms:
            return _NO_SPEEDUP.middle
        path, speedup = found
        return figure(f"p50({path}.baseline)", speedup.baseline.p50_ms, quantities.milliseconds)

    def _speedup(self, step: int, batch: int) -> tuple[str, Speedup] | None:
        for index, speedup in enumerate(self.steps[step].speedups):
            if speedup.batch == batch:
                return f"steps.{step}.speedups.{index}", speedup
        return None

    def speed_gain(self, step: int, batch: int) -> Number:
        """How many times faster than the step before.

        The quotient of the two interleaved speed-ups over the original: both stand against the
        same file, which takes out how fast the machine was at the time.
        """
        now, before = self.speedup(step, batch).middle, self.speedup(step - 1, batch).middle
        if step == 1:
            return now
        return self.ratio(now, before)

    # -------------------------------------------------------------- quality

    def score(self, step: int) -> Interval:
        """Share of samples right with its 95 % interval."""
        score = self._score(step)
        if score is None:
            return _NO_SCORE
        path, (low, high) = f"steps.{step}.score", score.interval
        return Interval(
            figure(f"{path}.value", score.value, quantities.percent),
            figure(f"wilson_low({path})", low, quantities.percent),
            figure(f"wilson_high({path})", high, quantities.percent),
        )

    def samples(self, step: int) -> Number:
        """Samples that the score counts."""
        score = self._score(step)
        return figure(
            f"steps.{step}.score.samples", score.samples if score else None, quantities.count
        )

    def change(self, step: int, base: int = 0) -> Interval:
        """Points above step `base`; the bounds are those of the drop, the other way round."""
        score, first = self._score(step), self._score(base)
        if score is None or first is None:
            return _NO_SCORE
        pair = f"(steps.{step}.score,steps.{base}.score)"
        drop, low, high = score.drop_from(first)
        return Interval(
            figure(f"change{pair}", 0.0 - drop, quantities.points),
            figure(f"drop_low{pair}", low, _bare_points),
            figure(f"drop_high{pair}", high, _bare_points),
        )

    def _score(self, step: int) -> Score | None:
        score = self.steps[step].score
        usable = score is not None and math.isfinite(score.value) and score.samples > 0
        return score if usable else None

    # -------------------------------------------------------------- arithmetic

    def ratio(self, top: Number, bottom: Number) -> Number:
        """Returns top / bottom as a figure."""
        if isinstance(top, Missing):
            return top
        if isinstance(bottom, Missing):
            return bottom
        if bottom.value == 0:
            return Missing(f"{bottom.source} is zero", "no ratio")
        source = f"ratio({top.source},{bottom.source})"
        return figure(source, top.value / bottom.value, quantities.times)

    def length(self, path: str, entries: Sequence[object]) -> Number:
        """Returns how many entries stand at `path`."""
        return figure(f"length({path})", len(entries), quantities.count)


def _millijoules(joules: float) -> str:
    return f"{quantities.significant(1e3 * joules)} mJ"


def _bare_points(value: float) -> str:
    return quantities.points(value, sign=False).removesuffix(" points")


_NO_LATENCY = Interval(*3 * (Missing("no latency was recorded at this batch size"),))
_NO_SPEEDUP = Interval(*3 * (Missing("no interleaved comparison was recorded"),))
_NO_SCORE = Interval(*3 * (Missing("no score was recorded"),))
