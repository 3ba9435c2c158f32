"""Charts of a study: lines or points with intervals, and box plots. Colours are classes."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final, final

from markupsafe import Markup

from tersenet.core.findings import BoxChart, LineChart, Samples, Series
from tersenet.report.svg import Scale, element, fit_scale, mark, tick_text

__all__ = ["Drawn", "draw"]

COLOURS: Final = 8
"""Classes s0 … s7 of the style sheet; further series take them again, dashed."""
_WIDTH, _HEIGHT = 760.0, 400.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 14.0, 14.0, 52.0


@final
@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A chart as the page shows it."""

    title: str
    note: str
    svg: Markup | None
    """None where there is nothing to draw."""
    legend: Sequence[tuple[str, str]]
    """(name, class) of each series."""


def draw(chart: LineChart | BoxChart) -> Drawn:
    """Draws a chart; values that are not finite are left out."""
    svg, names = _lines(chart) if isinstance(chart, LineChart) else _boxes(chart)
    return Drawn(title=chart.title, note=chart.note, svg=svg, legend=names)


def _lines(chart: LineChart) -> tuple[Markup | None, list[tuple[str, str]]]:
    names = [(series.name, _class(number)) for number, series in enumerate(chart.series)]
    points = [_points(series, chart) for series in chart.series]
    every = list(itertools.chain(*points))
    if not every:
        return None, names
    x = fit_scale(
        min(p.x for p in every), max(p.x for p in every),
        start=_LEFT, end=_WIDTH - _RIGHT, margin=14, log=chart.x_log,
    )  # fmt: skip
    y = fit_scale(
        min(p.low for p in every), max(p.high for p in every),
        start=_HEIGHT - _BOTTOM, end=_TOP, margin=14, log=chart.y_log,
    )  # fmt: skip
    drawn = [
        _series(number, name, own, x, y, chart)
        for number, ((name, _), own) in enumerate(zip(names, points, strict=True))
    ]
    axes = [*_rows(y, chart.y_label), *_columns(x, chart.x_label)]
    return _svg(chart.title, axes, drawn), names


@final
@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    low: float
    high: float


def _points(series: Series, chart: LineChart) -> list[_Point]:
    low, high = series.low or series.y, series.high or series.y
    found = []
    for values in zip(series.x, series.y, low, high, strict=True):
        shown = all(map(math.isfinite, values))
        shown &= not chart.x_log or values[0] > 0
        shown &= not chart.y_log or min(values[1:]) > 0
        if shown:
            found.append(_Point(*values))
    return found


def _series(
    number: int, name: str, points: Sequence[_Point], x: Scale, y: Scale, chart: LineChart
) -> Markup:
    parts = []
    if chart.joined and points:
        path = "M" + "L".join(f"{x(p.x):.1f} {y(p.y):.1f}" for p in points)
        parts.append(element("path", class_="joined", d=path))
    for point in points:
        left, top = x(point.x), y(point.y)
        if point.low < point.high:
            bar = f"M{left:.1f} {y(point.low):.1f}V{y(point.high):.1f}"
            parts.append(element("path", class_="error", d=bar, aria_hidden="true"))
        lines = [name, f"{chart.x_label}\t{point.x:.6g}", f"{chart.y_label}\t{point.y:.6g}"]
        if point.low < point.high:
            lines.append(f"interval\t{point.low:.6g} to {point.high:.6g}")
        parts.append(_disc("\n".join(lines), left, top))
    return element("g", *parts, class_=f"series {_class(number)}", data_series=number)


def _disc(tip: str, left: float, top: float) -> Markup:
    return mark(
        tip,
        element("circle", class_="reach", cx=left, cy=top, r=9.0),
        element("circle", class_="disc", cx=left, cy=top, r=3.2),
    )


def _boxes(chart: BoxChart) -> tuple[Markup | None, list[tuple[str, str]]]:
    groups = list(dict.fromkeys(box.group for box in chart.boxes))
    names = [(name, _class(number)) for number, name in enumerate(groups)]
    boxes = [
        (box, values)
        for box in chart.boxes
        if (
            values := sorted(
                v for v in box.values if math.isfinite(v) and (v > 0 or not chart.y_log)
            )
        )
    ]
    if not boxes:
        return None, names
    y = fit_scale(
        min(values[0] for _, values in boxes), max(values[-1] for _, values in boxes),
        start=_HEIGHT - _BOTTOM, end=_TOP, margin=14, log=chart.y_log,
    )  # fmt: skip
    each = (_WIDTH - _LEFT - _RIGHT) / len(boxes)
    drawn = []
    for place, (box, values) in enumerate(boxes):
        middle = _LEFT + each * (place + 0.5)
        number = groups.index(box.group)
        drawn.append(_box(box, values, y, middle, min(each * 0.6, 56.0), number))
    axes = [*_rows(y, chart.y_label), *_box_names([box.name for box, _ in boxes], each)]
    return _svg(chart.title, axes, drawn), names


def _box_names(names: Sequence[str], each: float) -> Iterator[Markup]:
    """Neighbours of one name share it: beside their colours it says which is which."""
    first = 0
    for name, run in itertools.groupby(names):
        count = len(list(run))
        middle = _LEFT + each * (first + count / 2)
        yield element("text", name, class_="tick", x=middle, y=_HEIGHT - _BOTTOM + 17)
        first += count


def _box(
    box: Samples, values: Sequence[float], y: Scale, middle: float, width: float, number: int
) -> Markup:
    quarter, half, three = (
        quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    )
    left, right, low, high = middle - width / 2, middle + width / 2, values[0], values[-1]
    whiskers = (
        f"M{middle:.1f} {y(low):.1f}V{y(quarter):.1f}M{middle:.1f} {y(three):.1f}V{y(high):.1f}"
        f"M{left:.1f} {y(low):.1f}H{right:.1f}M{left:.1f} {y(high):.1f}H{right:.1f}"
    )
    tip = "\n".join([
        f"{box.name}, {box.group}",
        f"median\t{half:.6g}",
        f"quartiles\t{quarter:.6g} to {three:.6g}",
        f"extremes\t{low:.6g} to {high:.6g}",
        f"samples\t{len(values)}",
    ])  # fmt: skip
    body = mark(
        tip,
        element("path", class_="error", d=whiskers),
        element(
            "rect", class_="disc", x=left, y=y(three), width=width,
            height=max(1.0, y(quarter) - y(three)),
        ),
        element("line", class_="median", x1=left, x2=right, y1=y(half), y2=y(half)),
    )  # fmt: skip
    return element("g", body, class_=f"series {_class(number)}", data_series=number)


def _svg(title: str, axes: Iterable[Markup], drawn: Iterable[Markup]) -> Markup:
    return element(
        "svg",
        element("g", *axes, aria_hidden="true"),
        *drawn,
        class_="plot chart",
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="group",
        aria_label=title,
    )


def _rows(y: Scale, label: str) -> list[Markup]:
    right, parts = _WIDTH - _RIGHT, []
    for tick in y.ticks(6):
        parts += [
            element("line", class_="grid", x1=_LEFT, x2=right, y1=y(tick), y2=y(tick)),
            element("text", tick_text(tick), class_="tick end", x=_LEFT - 8, y=y(tick) + 4),
        ]
    middle = (_HEIGHT - _BOTTOM + _TOP) / 2
    turn = f"rotate(-90 13 {middle:g})"
    return [*parts, element("text", label, class_="name", x=13, y=middle, transform=turn)]


def _columns(x: Scale, label: str) -> list[Markup]:
    bottom, parts = _HEIGHT - _BOTTOM, []
    for tick in x.ticks(8):
        parts += [
            element("line", class_="grid", x1=x(tick), x2=x(tick), y1=_TOP, y2=bottom),
            element("text", tick_text(tick), class_="tick", x=x(tick), y=bottom + 17),
        ]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return [*parts, element("text", label, class_="name", x=middle, y=_HEIGHT - 8)]


def _class(number: int) -> str:
    return f"s{number % COLOURS}" + (" again" if number >= COLOURS else "")
