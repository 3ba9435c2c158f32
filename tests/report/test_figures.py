"""Figures: how they are written, and the interval of a median."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_check import read

from tersenet.report import quantities
from tersenet.report.figures import Figure, Missing, figure
from tersenet.report.records import Records, median_interval
from tersenet.run.record import RunSummary


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (quantities.bytes_text(999), "999 B"),
        (quantities.bytes_text(1_094_387), "1.094 MB"),
        (quantities.bytes_text(999_990), "1.000 MB"),
        (quantities.si(640), "640"),
        (quantities.si(31_021_696), "31.02 M"),
        (quantities.milliseconds(0.0123456), "0.0123 ms"),
        (quantities.milliseconds(9.996), "10.0 ms"),
        (quantities.milliseconds(12345.6), "12,346 ms"),
        (quantities.times(5.214), "5.21×"),
        (quantities.points(-0.301), "−0.30 points"),
        (quantities.points(-0.001), "0.00 points"),
        (quantities.points(0.25), "+0.25 points"),
        (quantities.seconds(119.94), "119.9 s"),
        (quantities.seconds(241.7), "4 min 02 s"),
        (quantities.percent(0.92556), "92.56 %"),
    ],
)
def test_written_as_a_person_would(text: str, expected: str):
    assert text == expected


@given(st.floats(1, 1e13))
def test_bytes_read_back_to_four_digits(value: float):
    number, _ = read(quantities.bytes_text(value))
    assert number == pytest.approx(value, rel=6e-4, abs=0.5)


@given(st.floats(1e-6, 1e6))
def test_milliseconds_read_back_to_three_digits(value: float):
    number, _ = read(quantities.milliseconds(value))
    assert number == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize("count", [30, 100, 101, 500])
def test_median_interval_covers_95_percent(count: int):
    low, high = median_interval([float(n) for n in range(count)])  # the samples are their ranks
    # P(X_low < median <= X_high) = P(low < B <= high), B ~ binomial(count, 1/2), counted from 0.
    inside = sum(math.comb(count, below) for below in range(int(low) + 1, int(high) + 1))
    assert 0.94 <= inside / 2**count <= 0.975


def test_median_interval_of_one_sample_is_that_sample():
    assert median_interval([3.0]) == (3.0, 3.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_missing(value: float):
    shown = figure("steps.0.seconds", value, str)
    assert isinstance(shown, Missing)
    assert "nan" not in shown.__html__().lower().replace("finite", "")


def test_a_ratio_over_zero_is_missing(run: RunSummary):
    records = Records(run.steps)
    zero = Figure("steps.0.cost.macs", 0, "0")
    assert isinstance(records.ratio(records.macs(1), zero), Missing)


def test_each_step_brought_its_quotient_of_speedups(run: RunSummary):
    records = Records(run.steps)
    product = 1.0
    for step in (1, 2, 3):
        gain = records.speed_gain(step, 8)
        assert isinstance(gain, Figure)
        product *= gain.value
    assert product == pytest.approx(run.steps[3].speedups[1].ratio)
