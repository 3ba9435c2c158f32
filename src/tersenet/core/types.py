"""The types that every room of the house shares.

A *subject* (a network with example inputs) flows through methods: each *plans*, is *applied*
to a copy and returns *edits*; after each, a *cost* and a *score* are measured.
"""

import abc
import base64
import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    Protocol,
    TypeAlias,
    TypeVar,
    final,
    runtime_checkable,
)

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator
from torch import Tensor, nn

__all__ = [
    "Batch",
    "Bound",
    "Budget",
    "Cost",
    "Deployment",
    "Device",
    "Edit",
    "EditKind",
    "Energy",
    "Latency",
    "Layer",
    "Loss",
    "Method",
    "Outcome",
    "Plan",
    "Predict",
    "Proof",
    "Quality",
    "Score",
    "Skip",
    "Speedup",
    "Status",
    "StepRecord",
    "Subject",
    "TrainingBatches",
    "Unmeasured",
    "Workbench",
]

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and targets, sample first."""
Predict: TypeAlias = Callable[[Tensor], Tensor]
"""Inputs to outputs: a module, or a deployed file behind a runtime."""
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) to a scalar in nats, summed over the batch."""


# ------------------------------------------------------------------ what is measured


@final
@dataclass(frozen=True, kw_only=True)
class Layer:
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
    """Of a stored weight."""


@final
@dataclass(frozen=True)
class Unmeasured:
    """Stands where a figure could not be measured, and says why."""

    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class Device:
    """The machine a figure was measured on."""

    cpu: str
    cores: int
    """That this process may use."""
    memory_bytes: int
    isa: tuple[str, ...]
    """Of the vector extensions that decide kernels: avx2, avx512f, avx512_vnni, …"""
    system: str

    @property
    def has_int8_dot(self) -> bool:
        """Whether 8-bit products are summed in 32 bits (no saturation, and faster)."""
        return bool({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"} & set(self.isa))


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
    """Of the machine over the last minute, before the measurement."""
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
    """Of the deployable file, by stat."""
    coded_bytes: int | None = None
    """Of the entropy-coded weights, where a step wrote them."""
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
        return next((one for one in self.latency if one.batch == batch), None)


def _packed(correct: np.ndarray | None) -> str | None:
    if correct is None:
        return None
    return f"{len(correct)}:{base64.b64encode(np.packbits(correct).tobytes()).decode()}"


def _unpacked(value: np.ndarray | str | None) -> np.ndarray | None:
    if value is None or isinstance(value, np.ndarray):
        return value
    count, _, packed = value.partition(":")
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8))[: int(count)] == 1


Correct: TypeAlias = Annotated[
    np.ndarray | None, PlainValidator(_unpacked), PlainSerializer(_packed)
]
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


@runtime_checkable
class Quality(Protocol):
    """Measures predictions on a fixed split."""

    def __call__(self, predict: Predict) -> Score:
        """Runs `predict` over the split."""
        ...


# ------------------------------------------------------------------ what flows through


@runtime_checkable
class TrainingBatches(Protocol):
    """Training batches as a pure function of the step, so that training resumes exactly."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps that make one pass over the data."""
        ...

    def batch(self, step: int) -> Batch:
        """Returns one batch; steps count from zero and never end."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where the artifact will run: what latency is measured on and planned for."""

    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    threads: Annotated[int, Field(ge=1)] = 1
    batches: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 8, 64)
    iterations: Annotated[int, Field(ge=1)] = 100
    """Least number of latency samples of each file at each batch size."""
    seconds: Annotated[float, Field(ge=0)] = 1.0
    """To go on sampling for beyond that number, for each file and batch size."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Of the file that will ship: int8 when a later step quantises."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What a method receives. Never mutated."""

    model: nn.Module
    example: tuple[Tensor, ...]
    """One batch of inputs; the first dimension is the sample."""
    calibration: Sequence[Batch] = ()
    """Batches from the training data, unaugmented, to observe activations on."""
    loss: Loss | None = None
    quality: Quality | None = None
    original: nn.Module | None = None
    """The network before the first step: the teacher."""
    training: TrainingBatches | None = None
    """Batches to fine-tune on."""
    deployment: Deployment = Deployment()


@final
@dataclass(frozen=True)
class Workbench:
    """What a long-running method may use while it is applied."""

    folder: Path | None = None
    """For checkpoints; None keeps nothing."""
    tick: Callable[[str, int, int], None] = lambda text, done, total: None
    """Reports progress: what, steps done, steps in all."""


# ------------------------------------------------------------------ what a method does


class EditKind(enum.StrEnum):
    """What was done to a site."""

    SLICE = "slice"  # indices of a dimension removed
    SWAP = "swap"  # a module replaced by others
    MASK = "mask"  # zeroed, still stored
    ENCODE = "encode"  # stored in fewer bits
    DROP = "drop"  # removed whole
    TUNE = "tune"  # values changed, structure kept


@final
@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change at one site, as data: a saved model is its edits and its tensors."""

    site: str
    """The parameter or module, by its qualified name in the network."""
    kind: EditKind
    before: str
    after: str
    real: bool = True
    """False when only simulated: then every figure says so."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What replaying needs, as JSON values."""


@final
@dataclass(frozen=True)
class Skip:
    """A site that a method left alone, and why."""

    site: str
    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class Proof:
    """Evidence that the changed network is the one claimed."""

    claim: str
    max_error: float
    """Largest difference relative to the largest reference output."""
    tolerance: float
    effect: float | None = None
    """The same measure between masked and original: what the removal changed. Never zero in a
    proof that could fail; None where nothing was removed."""

    @property
    def holds(self) -> bool:
        """Whether the claim was shown."""
        return self.max_error <= self.tolerance


@runtime_checkable
class Plan(Protocol):
    """What a method decided: plain data, as pydantic can write and read it."""

    @property
    def summary(self) -> str:
        """One line for a person."""
        ...

    @property
    def skips(self) -> Sequence[Skip]:
        """Sites left alone, with reasons."""
        ...


P = TypeVar("P", bound=Plan)


class Method(abc.ABC, Generic[P]):
    """One compression method: settings as fields, no state.

    Subclasses are frozen pydantic dataclasses, so a recipe's `name: {options}` is
    `Name(**options)`.
    """

    family: ClassVar[str]
    """The recipe's outer key: prune, quantize, …"""
    name: ClassVar[str]
    """The recipe's inner key, set by `method`."""
    plan_type: ClassVar[type]
    """The class of its plans, for reading one back."""

    @abc.abstractmethod
    def plan(self, subject: Subject, bench: Workbench) -> P:
        """Reads and decides; changes nothing."""

    @abc.abstractmethod
    def apply(
        self, model: nn.Module, plan: P, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Changes `model`, the pipeline's own copy, and returns it or its replacement."""

    @abc.abstractmethod
    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Repeats `edits` on a network as it was before them: the structure, not the values.

        Loading a saved model builds the original class, replays every step, then loads the
        tensors.
        """


# ------------------------------------------------------------------ what comes out


@final
@dataclass(frozen=True)
class Bound:
    """One bound of a budget, and what was found."""

    text: str
    met: bool


@final
@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the artifact may cost at most; None leaves a figure free."""

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Median wall time of one batch of `batch`."""
    speedup: Annotated[float, Field(gt=0)] | None = None
    """Median time of the original file / of the artifact, at `batch`."""
    batch: Annotated[int, Field(ge=1)] = 1
    file_bytes: Annotated[int, Field(gt=0)] | None = None
    macs: Annotated[int, Field(gt=0)] | None = None
    quality: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least share of samples right, between 0 and 1."""
    max_drop: Annotated[float, Field(ge=0)] | None = None
    """Points of the score below the original's at most."""

    def check(self, first: "StepRecord", last: "StepRecord") -> list[Bound]:
        """Compares the last step with each bound and, where relative, with the first."""
        cost, bounds = last.cost, []
        if self.latency_ms is not None:
            found = cost.latency_at(self.batch)
            text = "not measured" if found is None else f"{found.p50_ms:.3g} ms"
            met = found is not None and found.p50_ms <= self.latency_ms
            bounds.append(Bound(f"p50 at batch {self.batch} {text} ≤ {self.latency_ms:g} ms", met))
        if self.speedup is not None:
            ratio = next((one.ratio for one in last.speedups if one.batch == self.batch), None)
            text = "not measured" if ratio is None else f"{ratio:.2f}×"
            met = ratio is not None and ratio >= self.speedup
            bounds.append(Bound(f"speed-up at batch {self.batch} {text} ≥ {self.speedup:g}×", met))
        if self.file_bytes is not None:
            met = cost.file_bytes <= self.file_bytes
            bounds.append(Bound(f"file {cost.file_bytes:,} B ≤ {self.file_bytes:,} B", met))
        if self.macs is not None:
            bounds.append(Bound(f"MACs {cost.macs:,} ≤ {self.macs:,}", cost.macs <= self.macs))
        if self.quality is not None:
            value = 0.0 if last.score is None else last.score.value
            text = f"{last.score.metric if last.score else 'quality'} {100 * value:.2f} %"
            bounds.append(Bound(f"{text} ≥ {100 * self.quality:g} %", value >= self.quality))
        if self.max_drop is not None:
            if last.score is None or first.score is None:
                bounds.append(Bound(f"drop not measured ≤ {self.max_drop:g} points", False))
            else:
                drop = last.score.drop_from(first.score)[0]
                text = f"drop {drop:.2f} ≤ {self.max_drop:g} points"
                bounds.append(Bound(text, round(drop, 6) <= self.max_drop))
        return bounds


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class StepRecord:
    """One step, measured."""

    name: str
    """'original', 'prune l1', …"""
    settings: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""
    cost: Cost
    score: Score | None
    speedups: tuple[Speedup, ...] = ()
    """Against the original file, one per batch size."""
    edits: Sequence[Edit] = ()
    skips: Sequence[Skip] = ()
    proofs: Sequence[Proof] = ()
    layers: Sequence[Layer] = ()
    """What computes in the network after this step."""
    int8_share: float | None = None
    """Of the MACs, the share that the runtime really executes in int8 kernels; None: not int8."""
    simulated: bool = False
    """Whether any edit so far is only simulated."""
    seconds: float
    """Spent planning, applying and proving, without the measurement."""
    notes: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """Paths within the run folder by format: onnx, safetensors."""


class Status(enum.StrEnum):
    """How a run ended."""

    MET = "met"
    MISSED = "missed"
    UNCHANGED = "unchanged"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a run hands back: never None, never lost."""

    model: nn.Module
    status: Status
    steps: tuple[StepRecord, ...]
    bounds: tuple[Bound, ...] = ()
    advice: str
    folder: Path
    chosen: int
    """Of the steps, the one whose files are handed back."""

    def artifact(self, kind: str = "onnx") -> Path:
        """Returns the path of the file handed back: onnx, safetensors or manifest."""
        return self.folder / Path(self.steps[self.chosen].files[kind]).name

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"

    @property
    def measurements(self) -> tuple[StepRecord, ...]:
        """One record per step, the original first."""
        return self.steps
