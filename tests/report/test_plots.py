"""Scales, ticks, label places and thinning."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import changed, finished_run, synthetic_steps

from tersenet.report.labels import Box, Spot, place
from tersenet.report.records import Records
from tersenet.report.scatter import scatter_plots
from tersenet.report.strips import strip_panels, thin_samples
from tersenet.report.svg import Scale, element, fit_scale, tick_text


@given(
    low=st.floats(1e-3, 1e3),
    factor=st.floats(1.05, 1e4),
    log=st.booleans(),
    about=st.integers(3, 9),
)
def test_ticks_lie_inside_and_are_round(low: float, factor: float, log: bool, about: int):
    scale = Scale(low=low, high=low * factor, start=0.0, end=400.0, log=log)
    ticks = scale.ticks(about)
    assert 1 <= len(ticks) <= 2 * about + 2
    assert all(-1e-6 <= scale(tick) <= 400 + 1e-6 for tick in ticks)
    for tick in ticks:
        digits = f"{tick:.6e}".partition("e")[0].rstrip("0").replace(".", "")
        assert len(digits) <= 4
    assert len({tick_text(tick) for tick in ticks}) == len(ticks)


@given(low=st.floats(1e-3, 1e3), factor=st.floats(1.0, 1e3), log=st.booleans())
def test_fitted_keeps_its_margin(low: float, factor: float, log: bool):
    high = low * factor
    scale = fit_scale(low, high, start=10.0, end=390.0, margin=8.0, log=log)
    assert scale(high) <= 390 - 8 + 1e-3
    clamped = scale.low == 0 and not log
    assert scale(low) >= (10 if clamped else 18) - 1e-3


def test_a_linear_scale_is_a_straight_line():
    scale = Scale(low=2.0, high=4.0, start=100.0, end=300.0)
    assert [scale(2.0), scale(3.0), scale(4.0)] == [100.0, 200.0, 300.0]
    log = Scale(low=1.0, high=100.0, start=0.0, end=10.0, log=True)
    assert log(10.0) == pytest.approx(5.0)


def test_elements_escape_text_and_attributes():
    made = element("text", '<b>"', class_="a", data_tip="<\"&'", x=1.50, y=None)
    parsed = ET.fromstring(made)
    assert parsed.text == '<b>"'
    assert parsed.attrib == {"class": "a", "data-tip": "<\"&'", "x": "1.5"}


def test_labels_of_points_on_one_place_do_not_overlap():
    spots = [Spot(200.0, 150.0 + n, 10.0, f"{n} quantize static") for n in range(4)]
    frame = Box(0.0, 0.0, 400.0, 300.0)
    boxes = place(spots, frame)
    assert all(box.outside(frame) == 0 for box in boxes)
    assert all(a.overlap(b) == 0 for n, a in enumerate(boxes) for b in boxes[:n])


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=900))
def test_thinning_keeps_order_extremes_and_middle(samples: list[float]):
    kept = thin_samples(samples, most=100)
    assert kept == sorted(set(kept))
    assert len(kept) == min(100, len(samples))
    values = [samples[index] for index in kept]
    assert min(values) == min(samples)
    assert max(values) == max(samples)
    if len(samples) > 100:
        spread = sorted(samples)
        middle, slack = len(samples) // 2, len(samples) // 50 + 2
        median = sorted(values)[50]
        assert spread[max(0, middle - slack)] <= median <= spread[middle + slack]


def test_areas_are_proportional_to_bytes():
    plot = scatter_plots(Records(finished_run().steps))[0]
    assert plot.wide is not None
    marks = [node for node in ET.fromstring(plot.wide) if "mark" in node.get("class", "")]
    areas, sizes = [], []
    for mark in marks:
        disc = next(node for node in mark if node.get("class") == "disc")
        areas.append(math.pi * float(disc.get("r", 0)) ** 2)
        sizes.append(float(mark.get("data-value", 0)))
    assert len(sizes) == 4
    ratios = [area / size for area, size in zip(areas, sizes, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * 4, rel=0.01)


def test_many_samples_are_thinned_and_the_page_says_so():
    panel = strip_panels(Records(finished_run(samples=1500).steps))[0]
    assert "1,500 samples a step, 400 of them drawn" in panel.counts
    dots = [node.get("d", "") for node in ET.fromstring(panel.plot).iter("path")]
    assert [path.count("M") for path in dots] == [400] * 4


def test_an_outlier_makes_the_axis_logarithmic():
    steps = synthetic_steps()
    assert not strip_panels(Records(steps))[0].log
    first = steps[0].cost.latency[0]
    late = replace(first, samples_ms=(*first.samples_ms[:-1], 40.0))
    steps[0] = changed(steps[0], latency=(late, *steps[0].cost.latency[1:]))
    panel = strip_panels(Records(steps))[0]
    assert panel.log
    assert "logarithmic" in panel.plot
