"""The size-latency-accuracy plot: one point a step, joined in their order."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from markupsafe import Markup

from tersenet.report.figures import Figure
from tersenet.report.labels import LINE_PX, Box, Spot, place
from tersenet.report.records import Records
from tersenet.report.svg import Scale, element, fit_scale, mark, tick_text

__all__ = ["ScatterPlot", "scatter_plots"]


@final
@dataclass(frozen=True, kw_only=True)
class ScatterPlot:
    """The plot at one batch size, drawn for a wide and for a narrow page."""

    batch: int
    wide: Markup | None
    """None when no step has both a latency and a score."""
    narrow: Markup | None
    absent: Sequence[str]
    """Steps that could not be drawn."""


@final
@dataclass(frozen=True, kw_only=True)
class _Layout:
    name: str
    width: float
    height: float
    radius: float
    """Radius of the largest file's marker."""
    margin: float
    """Left and right of the points, for their labels."""
    x_ticks: int


_LAYOUTS: Final = (
    _Layout(name="wide", width=760, height=430, radius=20, margin=70, x_ticks=7),
    _Layout(name="narrow", width=360, height=360, radius=15, margin=28, x_ticks=6),
)
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 14.0, 46.0


@final
@dataclass(frozen=True, kw_only=True)
class _Point:
    step: int
    name: str
    p50: Figure
    p50_low: Figure
    p50_high: Figure
    score: Figure
    score_low: Figure
    score_high: Figure
    file_bytes: Figure
    simulated: bool
    tip: str


def scatter_plots(records: Records) -> list[ScatterPlot]:
    """Returns one plot for each measured batch size."""
    return [_plot(records, batch) for batch in records.batches]


def _plot(records: Records, batch: int) -> ScatterPlot:
    points = [_point(records, step, batch) for step in range(len(records.steps))]
    drawn = [point for point in points if point is not None]
    absent = [step.name for step, point in zip(records.steps, points, strict=True) if point is None]
    if not drawn:
        return ScatterPlot(batch=batch, wide=None, narrow=None, absent=absent)
    wide, narrow = (_draw(drawn, batch, records.metric, layout) for layout in _LAYOUTS)
    return ScatterPlot(batch=batch, wide=wide, narrow=narrow, absent=absent)


def _point(records: Records, step: int, batch: int) -> _Point | None:
    p50, score = records.p50(step, batch), records.score(step)
    size, exact = records.file_bytes(step), records.file_bytes_exact(step)
    found = (p50.middle, p50.low, p50.high, score.middle, score.low, score.high, size, exact)
    figures = [figure for figure in found if isinstance(figure, Figure)]
    if len(figures) < len(found):
        return None
    p50_, p50_low, p50_high, score_, score_low, score_high, size, exact = figures
    record = records.steps[step]
    tip = [
        f"{step} {record.name}" + (", simulated" if record.simulated else ""),
        f"p50 at batch {batch}\t{p50_.value:.4f} ms",
        f"95 % interval\t{p50_low.value:.4f} to {p50_high.value:.4f} ms",
        f"{records.metric}\t{score_.text}",
        f"95 % interval\t{score_low.text} to {score_high.text}",
        f"file\t{exact.text}",
    ]
    speedup = records.speedup(step, batch)
    if step and speedup and isinstance(speedup.middle, Figure):
        tip.append(f"speed-up\t{speedup.middle.value:.3f}×")
    return _Point(
        step=step, name=record.name, p50=p50_, p50_low=p50_low, p50_high=p50_high,
        score=score_, score_low=score_low, score_high=score_high, file_bytes=size,
        simulated=record.simulated, tip="\n".join(tip),
    )  # fmt: skip


def _draw(points: Sequence[_Point], batch: int, metric: str, layout: _Layout) -> Markup:
    x = fit_scale(
        min(p.p50_low.value for p in points), max(p.p50_high.value for p in points),
        start=_LEFT, end=layout.width - _RIGHT, margin=layout.margin,
    )  # fmt: skip
    y = fit_scale(
        100 * min(p.score_low.value for p in points), 100 * max(p.score_high.value for p in points),
        start=layout.height - _BOTTOM, end=_TOP, margin=layout.radius + 8,
    )  # fmt: skip
    largest = max(point.file_bytes.value for point in points) or 1
    radii = [max(2.5, layout.radius * math.sqrt(p.file_bytes.value / largest)) for p in points]
    centres = [(x(point.p50.value), y(100 * point.score.value)) for point in points]
    path = "M" + "L".join(f"{cx:.1f} {cy:.1f}" for cx, cy in centres)
    title = f"{metric} against p50 latency at batch {batch}, one point a step"
    return element(
        "svg",
        _axes(x, y, batch, metric, layout),
        element("path", class_="route", d=path),
        *(_error_bars(p, x, y) for p in points),
        *(_mark(p, *centre, r) for p, centre, r in zip(points, centres, radii, strict=True)),
        *_labels(points, centres, radii, x, y),
        class_=f"plot scatter {layout.name}",
        viewBox=f"0 0 {layout.width:g} {layout.height:g}",
        role="group",
        aria_label=title,
    )


def _axes(x: Scale, y: Scale, batch: int, metric: str, layout: _Layout) -> Markup:
    bottom, right = layout.height - _BOTTOM, layout.width - _RIGHT
    parts = []
    for tick in x.ticks(layout.x_ticks):
        at = x(tick)
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=_TOP, y2=bottom))
        text = element("text", tick_text(tick), class_="tick", x=at, y=bottom + 17)
        parts.append(text)
    for tick in y.ticks(6):
        at = y(tick)
        parts.append(element("line", class_="grid", x1=_LEFT, x2=right, y1=at, y2=at))
        text = element("text", tick_text(tick), class_="tick end", x=_LEFT - 8, y=at + 4)
        parts.append(text)
    parts.append(element("line", class_="axis", x1=_LEFT, x2=right, y1=bottom, y2=bottom))
    name = f"p50 in ms per batch of {batch}"
    middle = (_LEFT + right) / 2
    parts.append(element("text", name, class_="name", x=middle, y=layout.height - 8))
    turn = f"rotate(-90 13 {(bottom + _TOP) / 2:g})"
    name = f"{metric} in %"
    at = (bottom + _TOP) / 2
    parts.append(element("text", name, class_="name", x=13, y=at, transform=turn))
    return element("g", *parts, aria_hidden="true")


def _error_bars(point: _Point, x: Scale, y: Scale) -> Markup:
    cx, cy = x(point.p50.value), y(100 * point.score.value)
    left, right = x(point.p50_low.value), x(point.p50_high.value)
    top, bottom = y(100 * point.score_high.value), y(100 * point.score_low.value)
    d = (
        f"M{left:.1f} {cy:.1f}H{right:.1f}M{left:.1f} {cy - 4:.1f}v8M{right:.1f} {cy - 4:.1f}v8"
        f"M{cx:.1f} {top:.1f}V{bottom:.1f}M{cx - 4:.1f} {top:.1f}h8M{cx - 4:.1f} {bottom:.1f}h8"
    )
    return element("path", class_="error", d=d, aria_hidden="true")


def _mark(point: _Point, cx: float, cy: float, radius: float) -> Markup:
    kind = "simulated" if point.simulated else "real"
    return mark(
        point.tip,
        # A finger needs more than the disc of a small file.
        element("circle", class_="reach", cx=cx, cy=cy, r=max(radius, 14.0)),
        element(
            "circle", class_="disc", cx=cx, cy=cy, r=radius,
            data_figure=point.p50.source, data_value=point.p50.exact,
        ),
        element(
            "circle", class_="core", cx=cx, cy=cy, r=2.0,
            data_figure=point.score.source, data_value=point.score.exact,
        ),
        class_=f"mark {kind}",
        data_figure=point.file_bytes.source,
        data_value=point.file_bytes.exact,
    )  # fmt: skip


def _labels(
    points: Sequence[_Point],
    centres: Sequence[tuple[float, float]],
    radii: Sequence[float],
    x: Scale,
    y: Scale,
) -> list[Markup]:
    spots = [
        Spot(cx, cy, radius, f"{point.step} {_short(point.name)}")
        for point, (cx, cy), radius in zip(points, centres, radii, strict=True)
    ]
    bars = [
        Box(cx - 5, y(100 * p.score_high.value) - 1, cx + 5, y(100 * p.score_low.value) + 1)
        for p, (cx, _) in zip(points, centres, strict=True)
    ] + [
        Box(x(p.p50_low.value) - 1, cy - 5, x(p.p50_high.value) + 1, cy + 5)
        for p, (_, cy) in zip(points, centres, strict=True)
    ]
    frame = Box(_LEFT + 2, _TOP, x.end + _RIGHT - 2, y.start - 2)
    boxes = place(spots, frame, [*bars, *_stations(centres)])
    return [part for spot, box in zip(spots, boxes, strict=True) for part in _label(spot, box)]


def _label(spot: Spot, box: Box) -> list[Markup]:
    """Returns the text, and a line to its point when something else stands between or near."""
    text = element(
        "text", spot.text, class_="label", x=box.left, y=box.bottom - 4, aria_hidden="true"
    )
    x = min(max(spot.x, box.left), box.right)
    y = min(max(spot.y, box.top), box.bottom)
    distance = math.hypot(x - spot.x, y - spot.y)
    if distance <= spot.radius + 9:
        return [text]
    at = (spot.radius + 1) / distance
    line = element(
        "line",
        class_="leader",
        x1=spot.x + at * (x - spot.x),
        y1=spot.y + at * (y - spot.y),
        x2=x,
        y2=y,
        aria_hidden="true",
    )
    return [line, text]


def _stations(centres: Sequence[tuple[float, float]]) -> list[Box]:
    """Returns small boxes along the line that joins the points, for labels to avoid."""
    stations = []
    for (x1, y1), (x2, y2) in itertools.pairwise(centres):
        count = max(1, round(math.hypot(x2 - x1, y2 - y1) / LINE_PX))
        for number in range(1, count):
            at_x = x1 + (x2 - x1) * number / count
            at_y = y1 + (y2 - y1) * number / count
            stations.append(Box(at_x - 4, at_y - 4, at_x + 4, at_y + 4))
    return stations


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"
