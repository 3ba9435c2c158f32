"""The cards: each quantity of the step handed back, beside the original's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from markupsafe import Markup, escape

from tersenet.report.figures import Figure, Missing, Number
from tersenet.report.phrases import (
    FEWER,
    LESS,
    SMALLER,
    amount_phrase,
    ratio_tone,
    speed_phrase,
    sure_tone,
)
from tersenet.report.records import Records

__all__ = ["Card", "cards"]


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


def cards(records: Records) -> list[Card]:
    """Returns the cards: the step handed back against the original."""
    step = records.chosen
    return [
        _amount(
            "File", records, records.file_bytes(step), records.file_bytes(0), SMALLER,
            notes=[Markup("{} on disk").format(records.file_bytes_exact(step))],
        ),
        *_coded(records),
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
    tone = ratio_tone(records.ratio(before, now))
    return Card(title=title, now=now, before=before, effect=effect, tone=tone, notes=notes)


def _coded(records: Records) -> list[Card]:
    """The entropy-coded file beside the original's, where the step wrote one."""
    step = records.chosen
    if records.steps[step].cost.coded_bytes is None:
        return []
    now, before = records.coded_bytes(step), records.file_bytes(0)
    return [_amount("Coded file, to store and to send", records, now, before, SMALLER)]


def _latency(records: Records, batch: int) -> Card:
    step, title = records.chosen, f"Latency at batch {batch}, p50"
    now, speedup = records.p50(step, batch).middle, records.speedup(step, batch)
    before, notes, tone, effect = records.p50(0, batch).middle, [], "neutral", Markup()
    low, high = speedup.low, speedup.high
    if step > 0 and isinstance(low, Figure) and isinstance(high, Figure) and speedup:
        # The original's latency in turns with this file, not the one it had on its own before.
        before = records.beside(step, batch)
        text = Markup("speed-up {} to {} (95 % interval, in turns)")
        notes.append(text.format(low, high))
        effect = speed_phrase(speedup.middle)
        tone = sure_tone(low.value, high.value, level=1.0)
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
    low, high = change.low, change.high
    if step > 0 and isinstance(low, Figure) and isinstance(high, Figure):
        effect, tone = escape(change.middle), sure_tone(-high.value, -low.value, level=0.0)
        base = records.steps[0].score
        paired = score.correct is not None and base is not None and base.correct is not None
        text = Markup("drop {} to {} points (95 % interval, {})")
        notes.append(text.format(low, high, "paired" if paired else "not paired"))
    return Card(
        title=f"Quality, {score.metric}",
        now=now.middle,
        before=records.score(0).middle,
        effect=effect,
        tone=tone,
        notes=notes,
    )
