"""The page of a study: escaped, offline, and drawn where the values are."""

import dataclasses
import math
import re

import pytest
from test_page import HOSTILE, parsed

from tersenet.core.findings import (
    BoxChart,
    Claim,
    Findings,
    LineChart,
    Samples,
    Series,
    Table,
)
from tersenet.report import render_findings


def findings(*charts: LineChart | BoxChart) -> Findings:
    return Findings(
        name=f"study {HOSTILE}",
        question=HOSTILE,
        claims=(Claim(text=HOSTILE, found="holds", evidence=HOSTILE),),
        charts=charts,
        tables=(
            Table(name="t", title=HOSTILE, columns=("a", HOSTILE), rows=((HOSTILE, 1.23456789),)),
        ),
        conditions={"device": HOSTILE},
        notes=(HOSTILE,),
    )


def line(**options: bool) -> LineChart:
    names = [f"{HOSTILE} {number}" for number in range(10)]
    series = tuple(
        Series(name=name, x=(1.0, 10.0, 100.0), y=(place + 1.0, place + 2.0, place + 4.0))
        for place, name in enumerate(names)
    )
    return LineChart(title=HOSTILE, x_label="x", y_label="y", series=series, **options)


def box() -> BoxChart:
    values = (1.0, 2.0, 3.0, 4.0, 10.0)
    return BoxChart(
        title="boxes",
        y_label="y",
        boxes=(
            Samples(name="b1", group="filter", values=values),
            Samples(name="b1", group="layer", values=(2.0,)),
            Samples(name="b8", group="filter", values=()),
        ),
    )


def test_the_page_is_well_formed_offline_and_escaped() -> None:
    page = render_findings(findings(line(), box()))
    reader = parsed(page)
    assert HOSTILE not in page
    assert HOSTILE in reader.text
    assert not [value for _, own in reader.tags for key, value in own.items() if key == "style"]
    links = [own[key] for _, own in reader.tags for key in ("src", "href") if key in own]
    assert all(link is not None and link.startswith(("#", "data:")) for link in links)


def test_every_point_is_drawn_and_says_its_values() -> None:
    page = render_findings(findings(line(x_log=True)))
    marks = [own for _, own in parsed(page).tags if own.get("class") == "mark"]
    assert len(marks) == 30
    assert marks[5]["data-tip"].splitlines()[1:] == ["x\t100", "y\t5"]
    places = [float(x) for x in re.findall(r'class="disc" cx="([\d.]+)"', page)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.02)  # log


def test_a_box_shows_median_quartiles_and_extremes() -> None:
    page = render_findings(findings(box()))
    marks = [own for _, own in parsed(page).tags if own.get("class") == "mark"]
    assert len(marks) == 2
    tip = marks[0]["data-tip"]
    assert "median\t3\nquartiles\t2 to 4\nextremes\t1 to 10\nsamples\t5" in tip


def test_a_cell_shows_four_figures_and_never_an_exponent_for_a_large_one() -> None:
    row = (1.23456789, 91234.5678, 0.000012345, 17, None, math.inf)
    table = Table(name="t", title="t", columns=tuple("abcdef"), rows=(row,))
    page = render_findings(dataclasses.replace(findings(), tables=(table,)))
    cells = re.findall(r'<td class="num">([^<]*)</td>', page)
    assert cells == ["1.235", "91235", "1.234e-05", "17", "–", "inf"]


def test_neighbouring_boxes_of_one_name_share_it() -> None:
    page = render_findings(findings(box()))
    (place,) = re.findall(r'<text class="tick" x="([\d.]+)" y="[\d.]+">b1<', page)
    boxes = [
        (float(x), float(w))
        for x, w in re.findall(r'<rect class="disc" x="([\d.]+)"[^>]* width="([\d.]+)"', page)
    ]
    middles = [x + w / 2 for x, w in boxes]
    assert float(place) == pytest.approx(sum(middles) / 2, abs=0.1)


def test_a_logarithmic_box_chart_spaces_doublings_alike() -> None:
    tall = Samples(name="t", group="g", values=(1.0, 2.0, 4.0, 8.0, 16.0))
    chart = BoxChart(title="t", y_label="y", boxes=(tall,), y_log=True)
    page = render_findings(findings(chart))
    low, quarter, three, high = map(
        float, re.findall(r"[\d.]+ ([\d.]+)V([\d.]+)M[\d.]+ ([\d.]+)V([\d.]+)M", page)[0]
    )
    assert low - quarter == pytest.approx((quarter - three) / 2, abs=0.15)
    assert three - high == pytest.approx((quarter - three) / 2, abs=0.15)
    nothing = BoxChart(
        title="t", y_label="y", boxes=(Samples(name="t", group="g", values=(0.0,)),), y_log=True
    )
    assert "Nothing was measured" in parsed(render_findings(findings(nothing))).text


def test_values_that_cannot_be_drawn_are_left_out() -> None:
    series = Series(name="s", x=(0.0, 1.0, 2.0), y=(1.0, math.nan, 3.0))
    chart = LineChart(title="t", x_label="x", y_label="y", series=(series,), x_log=True)
    reader = parsed(render_findings(findings(chart)))
    assert len([1 for _, own in reader.tags if own.get("class") == "mark"]) == 1
    empty = LineChart(title="t", x_label="x", y_label="y", series=())
    assert "Nothing was measured" in parsed(render_findings(findings(empty))).text


def test_an_interval_is_drawn_where_there_is_one() -> None:
    series = Series(name="s", x=(1.0, 2.0), y=(1.0, 2.0), low=(0.5, 2.0), high=(1.5, 2.0))
    chart = LineChart(title="t", x_label="x", y_label="y", series=(series,), joined=False)
    page = render_findings(findings(chart))
    assert page.count('class="error"') == 1
    assert 'class="joined"' not in page
