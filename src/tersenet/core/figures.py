"""What is measured: every figure says what it is of, and on what."""

import base64
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, TypeAlias, final

import numpy as np
from pydantic import PlainSerializer, PlainValidator

from tersenet.core.host import processor
from tersenet.core.unmeasured import Unmeasured

__all__ = [
    "Cost",
    "Device",
    "Energy",
    "Latency",
    "LayerCost",
    "Score",
    "Speedup",
    "Unmeasured",
]


@final
@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One place that computes: a convolution or a matrix product."""

    site: str
    """The weight's module, by its qualified name."""
    kind: str
    """conv2d, depthwise conv2d, linear, …"""
    weight: tuple[int, ...]
    """Shape of the weight: (out, in / groups, height, width) or (out, in)."""
    output: tuple[int, ...]
    """Shape of the output for one sample."""
    params: int
    macs: int
    bits: int = 32
    """Bits of a stored weight."""


@final
@dataclass(frozen=True, kw_only=True)
class Device:
    """The machine a figure was measured on."""

    cpu: str
    cores: int
    """How many cores this process may use."""
    memory_bytes: int
    isa: tuple[str, ...]
    """The vector extensions that decide kernels: avx2, avx512f, avx512_vnni, …"""
    system: str

    @property
    def has_int8_dot(self) -> bool:
        """Whether 8-bit products are summed in 32 bits (no saturation, and faster)."""
        return processor.has_int8_dot(self.isa)

    @property
    def meaning(self) -> str:
        """What the processor has and lacks, and what follows for files: one sentence."""
        return processor.meaning(self.isa)


@final
@dataclass(frozen=True, kw_only=True)
class Latency:
    """The distribution of one inference's wall time on a named device and runtime."""

    samples_ms: tuple[float, ...]
    batch: int
    threads: int
    runtime: str
    device: Device
    load_average: float
    """Load of the machine over the minute before the measurement."""
    warmup: int
    """Inferences run before the first sample."""
    pinned: tuple[int, ...] = ()
    """The cores the measuring process was bound to."""

    @cached_property
    def p50_ms(self) -> float:
        """Median, in milliseconds per batch."""
        return float(np.percentile(self.samples_ms, 50))

    @cached_property
    def p95_ms(self) -> float:
        """95th percentile, in milliseconds per batch (the EEMBC MLMark definition)."""
        return float(np.percentile(self.samples_ms, 95))

    @property
    def throughput(self) -> float:
        """Samples per second at the median."""
        return 1e3 * self.batch / self.p50_ms


@final
@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How many times faster than the baseline, from interleaved samples (A B A B)."""

    batch: int
    ratio: float
    """Median over rounds of baseline time / own time: above 1 is faster."""
    low: float
    high: float
    """Bounds of the 95 % bootstrap interval."""
    baseline: Latency
    own: Latency


@final
@dataclass(frozen=True)
class Energy:
    """Energy of one inference at batch 1, read from the processor's own counters."""

    joules: float
    source: str


@final
@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one network costs; every figure says what it is of."""

    file_bytes: int
    """Size of the deployable file on the disk."""
    coded_bytes: int | None = None
    """Size of the entropy-coded file, where a step wrote one."""
    params: int
    """Weights and biases, batch-norm scales and shifts; not running statistics."""
    nonzeros: int
    macs: int
    """Multiply-accumulates of one sample through convolutions and matrix products."""
    peak_memory_bytes: int | Unmeasured
    """Resident, of a fresh process that loads the file and runs one batch of one."""
    latency: tuple[Latency, ...] = ()
    energy: Energy | Unmeasured = field(default_factory=lambda: Unmeasured("not asked for"))

    def latency_at(self, batch: int) -> Latency | None:
        """Returns the latency measured at `batch`, or None."""
        return next((latency for latency in self.latency if latency.batch == batch), None)


def _pack(correct: np.ndarray | None) -> str | None:
    if correct is None:
        return None
    return f"{len(correct)}:{base64.b64encode(np.packbits(correct).tobytes()).decode()}"


def _unpack(value: np.ndarray | str | None) -> np.ndarray | None:
    if value is None or isinstance(value, np.ndarray):
        return value
    count, _, packed = value.partition(":")
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8))[: int(count)] == 1


Correct: TypeAlias = Annotated[np.ndarray | None, PlainValidator(_unpack), PlainSerializer(_pack)]
"""Which samples were right, (sample,) bool; in JSON one bit each, in base 64."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """A share of samples answered rightly, on a named split."""

    value: float
    """Between 0 and 1."""
    samples: int
    split: str
    metric: str = "top-1"
    correct: Correct = None
    """Which samples were right, (sample,) bool: makes paired comparisons possible."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval (Wilson 1927)."""
        z, n, p = 1.959964, self.samples, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def drop_from(self, base: "Score") -> tuple[float, float, float]:
        """Returns the drop below `base` in points and its 95 % interval (low, high).

        Paired over samples where both kept which were right, as in McNemar's test: far
        narrower than the two intervals apart suggest.
        """
        drop = base.value - self.value
        if self.correct is not None and base.correct is not None:
            variance = float(np.var(base.correct.astype(int) - self.correct.astype(int)))
        else:
            variance = self.value * (1 - self.value) + base.value * (1 - base.value)
        half = 1.959964 * math.sqrt(variance / self.samples)
        return 100 * drop, 100 * (drop - half), 100 * (drop + half)
