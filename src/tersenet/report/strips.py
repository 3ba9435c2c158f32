"""Latency samples as strips: every sample a dot, one row a step, one panel a batch size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from markupsafe import Markup

from tersenet.core.types import Latency
from tersenet.report.figures import Figure
from tersenet.report.records import Records
from tersenet.report.svg import Scale, element, fit_scale, mark, tick_text

__all__ = ["StripPanel", "strip_panels", "thin_samples"]

MOST_DOTS: Final = 400
LOG_FROM: Final = 4.0
"""Slowest sample / fastest sample from which on the axis is logarithmic."""

_WIDTH, _ROW, _STRIP, _LABEL, _AXIS = 380.0, 62.0, 30.0, 20.0, 40.0
_LEFT, _RIGHT = 8.0, 372.0


@final
@dataclass(frozen=True, kw_only=True)
class StripPanel:
    """The strips of one batch size."""

    batch: int
    plot: Markup
    log: bool
    counts: str
    """How many samples, and how many of them are drawn."""


@final
@dataclass(frozen=True, kw_only=True)
class _Row:
    step: int
    name: str
    latency: Latency
    p50: Figure
    p95: Figure


def thin_samples(samples: Sequence[float], most: int = MOST_DOTS) -> list[int]:
    """Returns the indices of at most `most` samples, in their order in time.

    Taken evenly over the ranks, so that the fastest, the slowest and the shape stay.
    """
    if len(samples) <= most:
        return list(range(len(samples)))
    ranked = sorted(range(len(samples)), key=lambda index: samples[index])
    last = len(samples) - 1
    return sorted(ranked[round(rank * last / (most - 1))] for rank in range(most))


def strip_panels(records: Records) -> list[StripPanel]:
    """Returns one panel for each measured batch size."""
    return [_panel(records, batch) for batch in records.batches]


def _panel(records: Records, batch: int) -> StripPanel:
    rows = [row for step in range(len(records.steps)) if (row := _row(records, step, batch))]
    samples = [value for row in rows for value in row.latency.samples_ms]
    fastest, slowest = min(samples), max(samples)
    log = fastest > 0 and slowest / fastest > LOG_FROM
    scale = fit_scale(fastest, slowest, start=_LEFT, end=_RIGHT, margin=6, log=log)
    height = len(rows) * _ROW + _AXIS
    plot = element(
        "svg",
        _axis(scale, batch, len(rows) * _ROW),
        *(_strip(row, scale, number * _ROW) for number, row in enumerate(rows)),
        class_="plot strips",
        viewBox=f"0 0 {_WIDTH:g} {height:g}",
        role="group",
        aria_label=f"Latency samples at batch {batch}, one strip a step",
    )
    return StripPanel(batch=batch, plot=plot, log=log, counts=_counts(rows))


def _counts(rows: Sequence[_Row]) -> str:
    sizes = sorted({len(row.latency.samples_ms) for row in rows})
    text = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    drawn = f", {MOST_DOTS} of them drawn" if sizes[-1] > MOST_DOTS else ""
    return f"{text} samples a step{drawn}"


def _row(records: Records, step: int, batch: int) -> _Row | None:
    found, p50 = records.latency(step, batch), records.p50(step, batch).middle
    p95 = records.p95(step, batch)
    if found is None or not isinstance(p50, Figure) or not isinstance(p95, Figure):
        return None
    return _Row(step=step, name=records.steps[step].name, latency=found[1], p50=p50, p95=p95)


def _axis(scale: Scale, batch: int, bottom: float) -> Markup:
    parts = []
    for tick in scale.ticks(5):
        at = scale(tick)
        if not _LEFT <= at <= _RIGHT:
            continue
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=_LABEL, y2=bottom))
        anchor = "start" if at < 20 else "end" if at > _WIDTH - 20 else None
        parts.append(
            element("text", tick_text(tick), class_="tick", x=at, y=bottom + 14, text_anchor=anchor)
        )
    name = f"ms per batch of {batch}" + (", logarithmic" if scale.log else "")
    parts.append(element("text", name, class_="name", x=_WIDTH / 2, y=bottom + 33))
    return element("g", *parts, aria_hidden="true")


def _strip(row: _Row, scale: Scale, top: float) -> Markup:
    samples = row.latency.samples_ms
    chosen, strip_top = thin_samples(samples), top + _LABEL + 4
    # From top to bottom in the order of time: a drift shows as a slant.
    inner, last = _STRIP - 8, max(1, len(samples) - 1)
    dots = "".join(
        f"M{scale(samples[n]):.1f} {strip_top + 4 + inner * n / last:.1f}h.01" for n in chosen
    )
    p50, p95 = scale(row.p50.value), scale(row.p95.value)
    ordered = sorted(samples)
    tip = (
        f"{row.step} {row.name}\np50\t{row.p50.value:.4f} ms\np95\t{row.p95.value:.4f} ms\n"
        f"fastest\t{ordered[0]:.4f} ms\nslowest\t{ordered[-1]:.4f} ms\n"
        f"samples\t{len(samples):,}"
    )
    numbers = f"p50 {row.p50.text}, p95 {row.p95.text}"
    room = 54 - len(numbers)
    name = f"{row.step} {row.name}"
    return mark(
        tip,
        element("text", name if len(name) <= room else name[: room - 1] + "…", class_="label",
                x=1, y=top + 17),
        element("text", numbers, class_="numbers", x=_WIDTH - 1, y=top + 17),
        element("rect", class_="track", x=0, y=strip_top, width=_WIDTH, height=_STRIP, rx=4),
        element("path", class_="dots", d=dots),
        element("line", class_="p50", x1=p50, x2=p50, y1=strip_top, y2=strip_top + _STRIP,
                data_figure=row.p50.source, data_value=row.p50.exact),
        element("line", class_="p95", x1=p95, x2=p95, y1=strip_top, y2=strip_top + _STRIP,
                data_figure=row.p95.source, data_value=row.p95.exact),
        element("circle", class_="cursor", r=4, cx=-9, cy=-9),
        class_="mark strip",
        data_order=" ".join(map(str, chosen)) if len(chosen) < len(samples) else None,
        data_samples=" ".join(f"{samples[n]:.4f}" for n in chosen),
    )  # fmt: skip
