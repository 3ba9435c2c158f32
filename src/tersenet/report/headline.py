"""The top of the report: the verdict in one line, and the conditions it was reached under."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from markupsafe import Markup, escape

from tersenet.core.types import Bound, Latency, Status
from tersenet.report import quantities
from tersenet.report.figures import Figure, figure
from tersenet.report.phrases import amount_phrase, speed_phrase
from tersenet.report.records import Records
from tersenet.run.record import RunSummary

__all__ = ["Headline", "headline"]

DRIFT: Final = math.log(1.1)
"""Change of the original's median between steps that is worth a note: a tenth."""

_LABELS: Final = {
    Status.MET: "Budget met",
    Status.MISSED: "Budget missed",
    Status.UNCHANGED: "Unchanged",
}


@final
@dataclass(frozen=True, kw_only=True)
class Headline:
    """What a reader sees first."""

    tone: str
    """met, missed, unchanged or unfinished: names a CSS class."""
    label: str
    sentence: Markup
    bounds: Sequence[Bound]
    advice: str
    conditions: Sequence[tuple[str, Markup]]
    """Term and value: device, runtime, threads, load, …"""
    warnings: Sequence[Markup]
    """What makes the figures less certain."""


def headline(summary: RunSummary, records: Records) -> Headline:
    """Composes the verdict, the bounds and the conditions."""
    verdict = summary.verdict
    if verdict is None:
        tone, label, bounds = "unfinished", "Unfinished", ()
        advice = "This run has not ended: figures are those of the steps so far."
    else:
        tone, label, bounds = str(verdict.status), _LABELS[verdict.status], verdict.bounds
        advice = verdict.advice
        if verdict.status is Status.MET and not bounds:
            label = "Done, without a budget"
    return Headline(
        tone=tone,
        label=label,
        sentence=_sentence(records),
        bounds=bounds,
        advice=advice,
        conditions=_conditions(summary, records),
        warnings=_warnings(summary, records),
    )


def _sentence(records: Records) -> Markup:
    step = records.chosen
    if step == 0:
        kept = "no step did better than it" if len(records.steps) > 1 else "there is no step yet"
        return Markup("the original network, for {}").format(kept)
    fewer = amount_phrase(records, records.file_bytes(step), records.file_bytes(0))
    parts = [Markup("{} bytes").format(fewer)]
    if records.batches:
        batch = records.batches[0]
        ratio = records.speedup(step, batch).middle
        parts.append(Markup("{} at batch {}").format(speed_phrase(ratio), batch))
    parts.append(Markup("{} {}").format(records.metric, records.change(step).middle))
    return Markup(", ").join(parts)


# ------------------------------------------------------------------ conditions


def _conditions(summary: RunSummary, records: Records) -> list[tuple[str, Markup]]:
    header, device = summary.header, summary.header.device
    cores = figure("header.device.cores", device.cores, quantities.count)
    memory = figure("header.device.memory_bytes", device.memory_bytes, quantities.bytes_text)
    conditions = [
        ("Device", Markup("{}, {} cores, {} memory").format(device.cpu, cores, memory)),
        ("System", escape(device.system)),
        ("Vector units", escape(", ".join(device.isa) or "none recorded")),
        ("What follows", escape(device.meaning)),
    ]
    measured = _list_latencies(records)
    if measured:
        path, cost = measured[-1]
        threads = figure(f"{path}.threads", cost.threads, quantities.count)
        pinned = ", ".join(map(str, cost.pinned)) or "none"
        text = Markup("{}, threads: {}, pinned to cores: {}").format(cost.runtime, threads, pinned)
        conditions.append(("Runtime", text))
        path, cost = max(measured, key=lambda pair: pair[1].load_average)
        load = figure(f"{path}.load_average", cost.load_average, quantities.significant)
        conditions.append(("Load of the machine", Markup("{} at most").format(load)))
    conditions.append(("Started", escape(header.started)))
    if summary.verdict is not None:
        wall = figure("verdict.seconds", summary.verdict.seconds, quantities.seconds)
        conditions.append(("Took", escape(wall)))
    return conditions


def _warnings(summary: RunSummary, records: Records) -> list[Markup]:
    warnings, measured = [], _list_latencies(records)
    busy = [pair for pair in measured if pair[1].load_average > pair[1].device.cores]
    if busy:
        path, latency = max(busy, key=lambda pair: pair[1].load_average)
        text = Markup("The machine was busy while latency was measured: load {} on {} cores.")
        load = figure(f"{path}.load_average", latency.load_average, quantities.significant)
        cores = figure(f"{path}.device.cores", latency.device.cores, quantities.count)
        warnings.append(text.format(load, cores))
    if any(latency.device != summary.header.device for _, latency in measured):
        warnings.append(
            Markup(
                "Some latencies were measured on another machine than the run began on: "
                "their ratios do not compare."
            )
        )
    warnings += _drift(records)
    simulated = [step.name for step in records.steps if step.simulated]
    if simulated:
        text = Markup("Simulated, not executed as shown: {}.")
        warnings.append(text.format(", ".join(simulated)))
    return warnings


def _drift(records: Records) -> list[Markup]:
    """Notes when the original itself ran at another speed beside a later step."""
    worst: tuple[float, int, Figure, Figure] | None = None
    for batch in records.batches:
        alone = records.p50(0, batch).middle
        for step in range(1, len(records.steps)):
            beside = records.beside(step, batch)
            if isinstance(alone, Figure) and isinstance(beside, Figure) and alone.value > 0:
                drift = abs(math.log(beside.value / alone.value)) if beside.value > 0 else 0.0
                if drift > DRIFT and (worst is None or drift > worst[0]):
                    worst = (drift, batch, alone, beside)
    if worst is None:
        return []
    text = Markup(
        "The machine changed its speed between steps: the original's p50 at batch {} was {} at "
        "first and {} beside a later step. Go by the speed-ups, which were measured in turns."
    )
    return [text.format(*worst[1:])]


def _list_latencies(records: Records) -> list[tuple[str, Latency]]:
    found = (
        records.latency(step, batch)
        for step in range(len(records.steps))
        for batch in records.batches
    )
    return [pair for pair in found if pair is not None]
