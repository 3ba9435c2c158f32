"""Observers against NumPy on all the data at once, which they never hold."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersenet.errors import QuantizeError
from tersenet.quantize import Range, Scheme
from tersenet.quantize.ranges import (
    Aciq,
    AverageRange,
    Deviations,
    LeastDivergence,
    LeastError,
    MinMax,
    MovingAverage,
    Percentile,
)
from tersenet.quantize.ranges.histogram import BINS, Histogram
from tersenet.quantize.ranges.observer import Observer


def _batches(seed: int = 0, count: int = 20) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Each batch is wider than those before: the histogram must grow again and again.
    return [torch.randn(500, generator=generator) * (1 + i) for i in range(count)]


def _seen(kind: Range[Any], batches: Iterable[torch.Tensor]) -> Any:
    seen = kind.observer()
    for batch in batches:
        seen.observe(batch)
    return seen


def _ends(kind: Range[Any], batches: Iterable[torch.Tensor], bits: int = 8) -> tuple[float, float]:
    return kind.ends(_seen(kind, batches), Scheme(bits=bits, mode="asymmetric", per="tensor"))


def test_min_max_is_of_all_batches() -> None:
    everything = torch.cat(_batches())
    assert _ends(MinMax(), _batches()) == (everything.min().item(), everything.max().item())


@pytest.mark.parametrize("share", [90.0, 99.0, 99.9, 100.0])
def test_percentile_equals_numpy_to_a_bin(share: float) -> None:
    kind = Percentile(share=share)
    ends, width = _ends(kind, _batches()), _seen(kind, _batches()).width
    tail = (100 - share) / 2
    values = torch.cat(_batches()).numpy()
    theirs = np.percentile(values, [tail, 100 - tail], method="inverted_cdf")
    assert np.abs(np.array(ends) - theirs).max() <= width


def test_percentile_leaves_out_the_outlier() -> None:
    x = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    x[7] = 1e4
    low, high = _ends(Percentile(share=99.99), [x])
    assert 0 <= low < 1e-2
    assert high < 10


@given(
    st.lists(
        st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=20), min_size=1, max_size=8
    )
)
def test_no_value_is_lost_when_bins_merge(batches: list[list[float]]) -> None:
    seen = Histogram()
    for batch in batches:
        seen.observe(torch.tensor(batch))
    values = np.concatenate([np.array(batch, np.float32) for batch in batches]).astype(np.float64)
    theirs, _ = np.histogram(values, seen.edges)
    # The last of NumPy's bins is closed; ours are all open above.
    assert seen.counts.sum() == len(values)
    assert np.array_equal(np.cumsum(seen.counts)[:-1], np.cumsum(theirs)[:-1])
    assert len(seen.counts) == BINS


def test_least_squared_error_against_a_brute_search() -> None:
    bits = 4
    x = torch.cat([batch.abs() for batch in _batches(count=3)])

    def error(high: float) -> float:
        quantised = torch.fake_quantize_per_tensor_affine(x, high / 15, 0, 0, 15)
        return (quantised - x).square().mean().item()

    _, found = _ends(LeastError(), x.split(500), bits)
    best = min(error(high) for high in np.linspace(0.2, 1, 400) * x.max().item())
    assert error(found) <= 1.01 * best
    assert error(found) < 0.8 * error(x.max().item())


def test_deterministic() -> None:
    assert _ends(LeastError(), _batches()) == _ends(LeastError(), _batches())


def test_constant_and_not_finite() -> None:
    seen = Observer()
    seen.observe(torch.full((3,), 2.0))
    assert seen.constant
    seen.observe(torch.tensor([2.5]))
    assert not seen.constant
    for bad in (float("nan"), float("inf")):
        with pytest.raises(QuantizeError, match="NaN or infinite"):
            seen.observe(torch.tensor([1.0, bad]))


def test_moving_average_is_the_recursion() -> None:
    low, high = (float(end) for end in _batches()[0].aminmax())
    for batch in _batches(count=5)[1:]:
        low, high = 0.99 * low + 0.01 * batch.min().item(), 0.99 * high + 0.01 * batch.max().item()
    assert _ends(MovingAverage(), _batches(count=5)) == pytest.approx((low, high), rel=1e-6)


def test_average_is_of_each_samples_ends() -> None:
    samples = torch.cat(_batches(count=4)).reshape(40, 5, 10)
    rows = samples.numpy().reshape(40, -1)
    due = rows.min(1).mean(), rows.max(1).mean()
    assert _ends(AverageRange(), samples.split(7)) == pytest.approx(due, rel=1e-5)


def test_deviations_are_four_around_the_mean_but_not_beyond_what_was_seen() -> None:
    x = 3 + torch.randn(50_000, generator=torch.Generator().manual_seed(1))
    x[0] = 500.0
    mean, reach = float(x.double().mean()), 4 * float(x.double().std())
    low, high = _ends(Deviations(), x.split(999))
    assert low == pytest.approx(max(float(x.min()), mean - reach), abs=0.05)
    assert high == pytest.approx(mean + reach, abs=0.05)


@pytest.mark.parametrize(("bits", "bound"), [(2, 2.83), (3, 3.89), (4, 5.03)])
def test_aciq_cuts_where_its_table_says(bits: int, bound: float) -> None:
    """Banner et al. 2018, section 3.1: the bounds of a Laplace distribution, in b."""
    values = np.random.default_rng(0).laplace(scale=2.0, size=200_000)
    parts = torch.from_numpy(values).float().split(20_000)
    assert _ends(Aciq(), parts, bits) == pytest.approx((-2 * bound, 2 * bound), rel=0.02)


def test_least_divergence_cuts_an_outlier_and_keeps_an_even_range() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(100_000, generator=generator)
    normal[0] = 200.0
    low, high = _ends(LeastDivergence(), [normal])
    # 255 bins: a range of fewer holds every bin on a level of its own, whatever its ends.
    assert 3 < high < 255 * _seen(LeastDivergence(), [normal]).width
    assert low == normal.min()  # an outlier above cuts nothing below
    even = torch.rand(100_000, generator=generator)
    assert _ends(LeastDivergence(), [even])[1] > 0.95
