"""Observers against NumPy on all the data at once, which they never hold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersenet.errors import QuantizeError
from tersenet.quantize.ranges import BINS, MinimumError, MinMax, Percentile, observer


def _batches(seed: int = 0, count: int = 20) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Each batch is wider than those before: the histogram must grow again and again.
    return [torch.randn(500, generator=generator) * (1 + i) for i in range(count)]


def test_min_max_is_of_all_batches() -> None:
    seen = MinMax()
    for batch in _batches():
        seen.observe(batch)
    everything = torch.cat(_batches())
    assert seen.range() == (everything.min().item(), everything.max().item())


@pytest.mark.parametrize("share", [90.0, 99.0, 99.9, 100.0])
def test_percentile_equals_numpy_to_a_bin(share: float) -> None:
    seen = Percentile(share)
    for batch in _batches():
        seen.observe(batch)
    tail = (100 - share) / 2
    values = torch.cat(_batches()).numpy()
    theirs = np.percentile(values, [tail, 100 - tail], method="inverted_cdf")
    assert np.abs(np.array(seen.range()) - theirs).max() <= seen.width


def test_percentile_leaves_out_the_outlier() -> None:
    x = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    x[7] = 1e4
    seen = Percentile(99.99)
    seen.observe(x)
    assert seen.range()[0] == 0 or seen.range()[0] < 1e-2
    assert seen.range()[1] < 10


@given(
    st.lists(
        st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=20), min_size=1, max_size=8
    )
)
def test_no_value_is_lost_when_bins_merge(batches: list[list[float]]) -> None:
    seen = Percentile(99)
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
    seen = MinimumError(bits)
    for batch in x.split(500):
        seen.observe(batch)

    def error(high: float) -> float:
        quantised = torch.fake_quantize_per_tensor_affine(x, high / 15, 0, 0, 15)
        return (quantised - x).square().mean().item()

    found = seen.range()[1]
    best = min(error(high) for high in np.linspace(0.2, 1, 400) * x.max().item())
    assert error(found) <= 1.01 * best
    assert error(found) < 0.8 * error(x.max().item())


def test_deterministic() -> None:
    ranges = []
    for _ in range(2):
        seen = observer("mse", percentile=99, bits=8)
        for batch in _batches():
            seen.observe(batch)
        ranges.append(seen.range())
    assert ranges[0] == ranges[1]


def test_constant_and_not_finite() -> None:
    seen = observer("min-max", percentile=99, bits=8)
    seen.observe(torch.full((3,), 2.0))
    assert seen.constant
    seen.observe(torch.tensor([2.5]))
    assert not seen.constant
    for bad in (float("nan"), float("inf")):
        with pytest.raises(QuantizeError, match="NaN or infinite"):
            seen.observe(torch.tensor([1.0, bad]))
