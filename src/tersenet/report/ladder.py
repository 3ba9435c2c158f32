"""The ladder: one rung a step, and what each step brought."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from markupsafe import Markup, escape

from tersenet.core.types import Edit, Skip, StepRecord
from tersenet.report import quantities
from tersenet.report.figures import Figure, Interval, Number, figure
from tersenet.report.phrases import (
    SMALLER,
    amount_phrase,
    ratio_tone,
    speed_phrase,
    sure_tone,
)
from tersenet.report.records import Records

__all__ = ["Evidence", "Gain", "Rung", "ladder"]


@final
@dataclass(frozen=True)
class Gain:
    """What one step changed against the step before, of one quantity."""

    of: str
    text: Markup
    tone: str


@final
@dataclass(frozen=True, kw_only=True)
class Timing:
    """Latency of a step at one batch size."""

    batch: int
    p50: Interval
    p95: Number
    speedup: Interval


@final
@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One proof of a step."""

    claim: str
    max_error: Number
    tolerance: Number
    effect: Number
    holds: bool


@final
@dataclass(frozen=True, kw_only=True)
class Rung:
    """One step, as the ladder shows it."""

    index: int
    name: str
    summary: str
    simulated: bool
    file_bytes: Number
    file_bytes_exact: Number
    timings: Sequence[Timing]
    score: Interval
    samples: Number
    macs: Number
    params: Number
    seconds: Number
    gains: Sequence[Gain]
    settings: Sequence[tuple[str, str]]
    skips: Sequence[tuple[str, Sequence[str]]]
    """Reason and the sites it holds for."""
    skipped: Number
    proofs: Sequence[Evidence]
    edits: Sequence[str]
    notes: Sequence[str]
    files: Sequence[tuple[str, str]]


def ladder(records: Records) -> list[Rung]:
    """Returns the rungs, the original first."""
    return [_rung(records, index, step) for index, step in enumerate(records.steps)]


def _rung(records: Records, index: int, step: StepRecord) -> Rung:
    return Rung(
        index=index,
        name=step.name,
        summary=step.summary,
        simulated=step.simulated,
        file_bytes=records.file_bytes(index),
        file_bytes_exact=records.file_bytes_exact(index),
        timings=[
            Timing(
                batch=batch,
                p50=records.p50(index, batch),
                p95=records.p95(index, batch),
                speedup=records.speedup(index, batch),
            )
            for batch in records.batches
        ],
        score=records.score(index),
        samples=records.samples(index),
        macs=records.macs(index),
        params=records.params(index),
        seconds=records.seconds(index),
        gains=_gains(records, index) if index else (),
        settings=list(_flat(step.settings)),
        skips=_by_reason(step.skips),
        skipped=records.length(f"steps.{index}.skips", step.skips),
        proofs=list(_proofs(index, step)),
        edits=_edit_counts(step.edits),
        notes=list(step.remarks),
        files=list(step.files.items()),
    )


def _gains(records: Records, index: int) -> list[Gain]:
    base, now = index - 1, index
    size = (records.file_bytes(now), records.file_bytes(base))
    work = (records.macs(now), records.macs(base))
    change = records.change(now, base)
    file_tone, work_tone = (ratio_tone(records.ratio(*pair[::-1])) for pair in (size, work))
    return [
        Gain("file", amount_phrase(records, *size, SMALLER), file_tone),
        Gain("MACs", amount_phrase(records, *work), work_tone),
        *(_speed_gain(records, now, batch) for batch in records.batches),
        Gain(records.metric, escape(change.middle), _change_tone(change)),
    ]


def _speed_gain(records: Records, step: int, batch: int) -> Gain:
    text = speed_phrase(records.speed_gain(step, batch))
    now, before = records.speedup(step, batch), records.speedup(step - 1, batch)
    bounds = (now.low, now.high, before.low, before.high) if step > 1 else (now.low, now.high)
    known = [bound.value for bound in bounds if isinstance(bound, Figure) and bound.value > 0]
    if len(known) < len(bounds):
        return Gain(f"batch {batch}", text, "neutral")
    # The widest quotient that both intervals allow.
    low, high, before_low, before_high = *known, *((1.0, 1.0) if step == 1 else ())
    tone = sure_tone(low / before_high, high / before_low, level=1.0)
    return Gain(f"batch {batch}", text, tone)


def _change_tone(change: Interval) -> str:
    low, high = change.low, change.high
    if not isinstance(low, Figure) or not isinstance(high, Figure):
        return "neutral"
    return sure_tone(-high.value, -low.value, level=0.0)  # bounds of the drop


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _setting(value)))
    return rows


def _setting(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_setting, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _by_reason(skips: Sequence[Skip]) -> list[tuple[str, list[str]]]:
    sites: dict[str, list[str]] = {}
    for skip in skips:
        sites.setdefault(skip.reason, []).append(skip.site)
    return list(sites.items())


def _edit_counts(edits: Sequence[Edit]) -> list[str]:
    counts = Counter((edit.kind, edit.real) for edit in edits)
    return [
        f"{quantities.count(count)} × {kind}{'' if real else ', simulated'}"
        for (kind, real), count in counts.items()
    ]


def _proofs(index: int, step: StepRecord) -> list[Evidence]:
    return [
        Evidence(
            claim=proof.claim,
            max_error=figure(f"steps.{index}.proofs.{n}.max_error", proof.max_error, _tiny),
            tolerance=figure(f"steps.{index}.proofs.{n}.tolerance", proof.tolerance, _tiny),
            effect=figure(f"steps.{index}.proofs.{n}.effect", proof.effect, _tiny),
            holds=proof.holds,
        )
        for n, proof in enumerate(step.proofs)
    ]


def _tiny(value: float) -> str:
    return f"{value:.2g}"
