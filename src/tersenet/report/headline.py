"""The top of the report: the verdict in one line, the conditions, and the cards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from markupsafe import Markup, escape

from tersenet.core.types import Bound, Latency, Status
from tersenet.report import quantities
from tersenet.report.figures import Figure, Missing, Number, Records, figure
from tersenet.run.record import RunSummary

__all__ = ["Card", "Headline", "cards", "headline"]

_LABELS = {
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


@final
@dataclass(frozen=True, kw_only=True)
class Card:
    """One quantity of the step handed back beside the original's."""

    title: str
    now: Number
    before: Number
    effect: Markup
    """What was won, in words."""
    tone: str = "neutral"
    """better, worse or neutral: names a CSS class."""
    notes: Sequence[Markup] = ()

    @property
    def bars(self) -> tuple[float, float] | None:
        """Lengths of the bars for before and now, of 100."""
        before, now = self.before, self.now
        if not isinstance(before, Figure) or not isinstance(now, Figure):
            return None
        longest = max(before.value, now.value)
        if longest <= 0:
            return None
        return 100 * before.value / longest, 100 * now.value / longest


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


FEWER: Final = ("fewer", "as many", "more")
SMALLER: Final = ("smaller", "as large", "larger")
LESS: Final = ("less", "as much", "more")


def amount_phrase(
    records: Records, now: Number, before: Number, words: tuple[str, str, str] = FEWER
) -> Markup:
    """Returns `5.21× fewer` for before / now above 1, `1.04× more` below."""
    ratio = records.ratio(before, now)
    if not isinstance(ratio, Figure):
        return escape(ratio)
    less, equal, more = words
    if ratio.text == quantities.times(1):
        return Markup("{} {}").format(ratio, equal)
    if ratio.value > 1:
        return Markup("{} {}").format(ratio, less)
    return Markup("{} {}").format(records.ratio(now, before), more)


def speed_phrase(ratio: Number) -> Markup:
    """Returns `1.61× faster`, or `0.83× the speed` for what became slower."""
    if not isinstance(ratio, Figure):
        return Markup("speed {}").format(ratio)
    faster = ratio.value > 1 and ratio.text != quantities.times(1)
    return Markup("{} {}").format(ratio, "faster" if faster else "the speed")


# ------------------------------------------------------------------ conditions


def _conditions(summary: RunSummary, records: Records) -> list[tuple[str, Markup]]:
    header, device = summary.header, summary.header.device
    cores = figure("header.device.cores", device.cores, quantities.count)
    memory = figure("header.device.memory_bytes", device.memory_bytes, quantities.bytes_text)
    conditions = [
        ("Device", Markup("{}, {} cores, {} memory").format(device.cpu, cores, memory)),
        ("System", escape(device.system)),
        ("Vector units", escape(", ".join(device.isa) or "none recorded")),
    ]
    measured = _measured(records)
    if measured:
        path, one = measured[-1]
        threads = figure(f"{path}.threads", one.threads, quantities.count)
        pinned = ", ".join(map(str, one.pinned)) or "none"
        text = Markup("{}, threads: {}, pinned to cores: {}").format(one.runtime, threads, pinned)
        conditions.append(("Runtime", text))
        path, one = max(measured, key=lambda pair: pair[1].load_average)
        load = figure(f"{path}.load_average", one.load_average, quantities.significant)
        conditions.append(("Load of the machine", Markup("{} at most").format(load)))
    conditions.append(("Started", escape(header.started)))
    if summary.verdict is not None:
        wall = figure("verdict.seconds", summary.verdict.seconds, quantities.seconds)
        conditions.append(("Took", escape(wall)))
    return conditions


def _warnings(summary: RunSummary, records: Records) -> list[Markup]:
    warnings, measured = [], _measured(records)
    busy = [pair for pair in measured if pair[1].load_average > pair[1].device.cores]
    if busy:
        path, one = max(busy, key=lambda pair: pair[1].load_average)
        text = Markup("The machine was busy while latency was measured: load {} on {} cores.")
        load = figure(f"{path}.load_average", one.load_average, quantities.significant)
        cores = figure(f"{path}.device.cores", one.device.cores, quantities.count)
        warnings.append(text.format(load, cores))
    if any(one.device != summary.header.device for _, one in measured):
        warnings.append(
            Markup(
                "Some latencies were measured on another machine than the run began on: "
                "their ratios do not compare."
            )
        )
    simulated = [step.name for step in records.steps if step.simulated]
    if simulated:
        text = Markup("Simulated, not executed as shown: {}.")
        warnings.append(text.format(", ".join(simulated)))
    return warnings


def _measured(records: Records) -> list[tuple[str, Latency]]:
    found = (
        records.latency(step, batch)
        for step in range(len(records.steps))
        for batch in records.batches
    )
    return [pair for pair in found if pair is not None]


# ------------------------------------------------------------------ cards


def cards(records: Records) -> list[Card]:
    """Returns the cards: the step handed back against the original."""
    step = records.chosen
    return [
        _amount(
            "File", records, records.file_bytes(step), records.file_bytes(0), SMALLER,
            notes=[Markup("{} on disk").format(records.file_bytes_exact(step))],
        ),
        _quality(records),
        _amount("Parameters", records, records.params(step), records.params(0)),
        *(_latency(records, batch) for batch in records.batches),
        _amount("MACs per sample", records, records.macs(step), records.macs(0)),
        _amount("Peak memory", records, records.memory(step), records.memory(0), LESS),
        _amount("Energy per inference", records, records.energy(step), records.energy(0), LESS),
    ]  # fmt: skip


def _amount(
    title: str,
    records: Records,
    now: Number,
    before: Number,
    words: tuple[str, str, str] = FEWER,
    *,
    notes: Sequence[Markup] = (),
) -> Card:
    if isinstance(now, Missing):
        notes = [escape(now.reason)]
    if not (isinstance(now, Figure) and isinstance(before, Figure)) or records.chosen == 0:
        return Card(title=title, now=now, before=before, effect=Markup(), notes=notes)
    effect = amount_phrase(records, now, before, words)
    tone = _tone(before.value - now.value)
    return Card(title=title, now=now, before=before, effect=effect, tone=tone, notes=notes)


def _latency(records: Records, batch: int) -> Card:
    step, title = records.chosen, f"Latency at batch {batch}, p50"
    now, before = records.p50(step, batch).middle, records.p50(0, batch).middle
    speedup, notes, tone, effect = records.speedup(step, batch), [], "neutral", Markup()
    if speedup and isinstance(speedup.middle, Figure) and step > 0:
        text = Markup("speed-up {} to {} (95 % interval, interleaved)")
        notes.append(text.format(speedup.low, speedup.high))
        effect, tone = speed_phrase(speedup.middle), _tone(speedup.middle.value - 1)
    elif isinstance(now, Missing):
        notes.append(escape(now.reason))
    p95 = records.p95(step, batch)
    if p95:
        notes.append(Markup("p95 {}").format(p95))
    return Card(title=title, now=now, before=before, effect=effect, tone=tone, notes=notes)


def _quality(records: Records) -> Card:
    step = records.chosen
    score, now = records.steps[step].score, records.score(step)
    if score is None or not now:
        missing = Missing("no score was recorded")
        return Card(title="Quality", now=missing, before=records.score(0).middle, effect=Markup())
    text = Markup("{} to {} (95 % interval), {} samples of {}")
    notes = [text.format(now.low, now.high, records.samples(step), score.split)]
    change, effect, tone = records.change(step), Markup(), "neutral"
    if change and isinstance(change.middle, Figure) and step > 0:
        effect, tone = Markup("{}").format(change.middle), _tone(change.middle.value)
        base = records.steps[0].score
        paired = score.correct is not None and base is not None and base.correct is not None
        text = Markup("drop {} to {} points (95 % interval, {})")
        how = "paired" if paired else "not paired"
        notes.append(text.format(change.low, change.high, how))
    return Card(
        title=f"Quality, {score.metric}",
        now=now.middle,
        before=records.score(0).middle,
        effect=effect,
        tone=tone,
        notes=notes,
    )


def _tone(gain: float) -> str:
    if gain == 0:
        return "neutral"
    return "better" if gain > 0 else "worse"
