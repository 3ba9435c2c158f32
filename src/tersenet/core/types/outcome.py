"""What comes out: each step's record, the budget it is held against, and how a run ended."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, final

from pydantic import Field
from torch import nn

from tersenet.core.edit import Edit
from tersenet.core.figures import Cost, LayerCost, Score, Speedup
from tersenet.core.types.method import Proof, Skip

__all__ = ["Bound", "Budget", "Outcome", "Status", "StepRecord"]


@final
@dataclass(frozen=True)
class Bound:
    """One bound of a budget, and what was found."""

    text: str
    """What was found and what is allowed, in a few words."""
    met: bool
    of: Literal["cost", "quality"] = "cost"
    """What is bounded: what the file costs, or how good its answers are."""


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
    coded_bytes: Annotated[int, Field(gt=0)] | None = None
    """Size of the entropy-coded file at most, which an encode step writes."""
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
            ratio = next(
                (speedup.ratio for speedup in last.speedups if speedup.batch == self.batch), None
            )
            text = "not measured" if ratio is None else f"{ratio:.2f}×"
            met = ratio is not None and ratio >= self.speedup
            bounds.append(Bound(f"speed-up at batch {self.batch} {text} ≥ {self.speedup:g}×", met))
        if self.file_bytes is not None:
            met = cost.file_bytes <= self.file_bytes
            bounds.append(Bound(f"file {cost.file_bytes:,} B ≤ {self.file_bytes:,} B", met))
        if self.coded_bytes is not None:
            coded = cost.coded_bytes
            text = "not written" if coded is None else f"{coded:,} B"
            met = coded is not None and coded <= self.coded_bytes
            bounds.append(Bound(f"coded file {text} ≤ {self.coded_bytes:,} B", met))
        if self.macs is not None:
            bounds.append(Bound(f"MACs {cost.macs:,} ≤ {self.macs:,}", cost.macs <= self.macs))
        if self.quality is not None:
            value = 0.0 if last.score is None else last.score.value
            text = f"{last.score.metric if last.score else 'quality'} {100 * value:.2f} %"
            text = f"{text} ≥ {100 * self.quality:g} %"
            bounds.append(Bound(text, value >= self.quality, of="quality"))
        if self.max_drop is not None:
            if last.score is None or first.score is None:
                text = f"drop not measured ≤ {self.max_drop:g} points"
                bounds.append(Bound(text, False, of="quality"))
            else:
                drop = last.score.drop_from(first.score)[0]
                text = f"drop {drop:.2f} ≤ {self.max_drop:g} points"
                bounds.append(Bound(text, round(drop, 6) <= self.max_drop, of="quality"))
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
    layers: Sequence[LayerCost] = ()
    """What computes in the network after this step."""
    int8_share: float | None = None
    """Share of the MACs that the runtime really executes in int8 kernels; None: not int8."""
    simulated: bool = False
    """Whether any edit so far is only simulated."""
    seconds: float
    """Spent planning, applying and proving, without the measurement."""
    notes: Sequence[str] = ()
    """What was found while planning: the same in every run, so nothing that a clock decided."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Paths within the run folder by format: onnx, safetensors."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to tell of this step: its notes, and what its timings say this time."""
        # Integers that do not pay: told only where that is sure.
        slow = [
            f"{speedup.ratio:.2f}x at batch {speedup.batch}"
            for speedup in self.speedups
            if speedup.high < 1
        ]
        if self.int8_share is None or not slow:
            return tuple(self.notes)
        found = f"slower than the original in the same runtime ({', '.join(slow)})"
        return (*self.notes, f"{found}: quantize: auto leaves in float what is faster so")


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
    """One record per step, the original first."""
    bounds: tuple[Bound, ...] = ()
    advice: str
    folder: Path
    chosen: int
    """The number of the step whose files are handed back."""

    def artifact(self, kind: str = "onnx") -> Path:
        """Returns the path of the file handed back: onnx, safetensors or manifest."""
        return self.folder / Path(self.steps[self.chosen].files[kind]).name

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"
