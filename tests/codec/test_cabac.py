"""The arithmetic coder is exact, universal, and as short as theory lets it be."""

import contextlib
import gzip
import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet.codec.arithmetic import cabac, engine
from tersenet.codec.arithmetic.cabac import decode_levels, encode_levels
from tersenet.codec.arithmetic.layout import PayloadLayout
from tersenet.codec.arithmetic.symbols import Bins
from tersenet.codec.arithmetic.tables import FAST_START, SLOW_START, TRELLIS
from tersenet.errors import FormatError

INT32 = np.iinfo(np.int32)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
ANY_LEVELS = st.one_of(
    st.integers(-3, 3), st.integers(-2000, 2000), st.integers(int(INT32.min), int(INT32.max))
)


def order0_bits(levels: np.ndarray) -> float:
    """The entropy of the levels' own histogram, in bits for all of them."""
    counts = np.unique(levels, return_counts=True)[1]
    return float(-(counts * np.log2(counts / levels.size)).sum())


def pruned(generator: np.random.Generator, shape: tuple[int, ...], keep: float) -> np.ndarray:
    """Laplace weights pruned by magnitude and rounded to 5 bits."""
    weights = generator.laplace(size=shape)
    weights[np.abs(weights) < np.quantile(np.abs(weights), 1 - keep)] = 0
    return np.rint(weights / np.abs(weights).max() * 15).astype(np.int32)


def reachable(levels: np.ndarray) -> np.ndarray:
    """The levels moved by at most one so that the trellis can produce them."""
    flat, state = levels.reshape(-1).astype(np.int64), 0
    for i in range(flat.size):
        level = int(flat[i])
        if level and level % 2 != state % 2:
            level += 1
        flat[i] = level
        coded = (level + (1 if level > 0 else -1) * (state & 1)) >> 1 if level else 0
        state = int(TRELLIS[state, coded & 1])
    return flat.reshape(levels.shape).astype(np.int32)


@given(
    levels=hnp.arrays(np.int32, SHAPES, elements=ANY_LEVELS),
    skip_rows=st.sampled_from([None, True, False]),
    search=st.booleans(),
    unary=st.integers(1, cabac.bins.MAX_UNARY),
)
@settings(max_examples=300)
def test_every_integer_tensor_comes_back(levels, skip_rows, search, unary):
    payload = encode_levels(levels, skip_rows=skip_rows, search=search, unary=unary)
    back = decode_levels(payload, levels.shape, unary=unary)
    np.testing.assert_array_equal(back.levels, levels)
    assert back.levels.shape == levels.shape
    assert back.bytes_read == len(payload)


@given(levels=hnp.arrays(np.int32, SHAPES, elements=st.integers(-40, 40)), skip=st.booleans())
def test_levels_of_the_trellis_come_back(levels, skip):
    levels = reachable(levels)
    payload = encode_levels(levels, dependent=True, skip_rows=skip)
    np.testing.assert_array_equal(
        decode_levels(payload, levels.shape, dependent=True).levels, levels
    )


def test_extremes_of_int32_come_back_in_long_runs():
    levels = np.tile(np.array([INT32.max, INT32.min, 0, -1, 1], np.int32), 40_000)
    np.testing.assert_array_equal(decode_levels(encode_levels(levels), levels.shape).levels, levels)


def test_a_level_the_trellis_cannot_reach_is_refused():
    with pytest.raises(ValueError, match="Level 0 is 1, which the trellis cannot reach"):
        encode_levels(np.array([1], np.int32), dependent=True)


@given(value=st.integers(0, 255), levels=hnp.arrays(np.int32, 20, elements=st.integers(-9, 9)))
def test_a_leading_number_comes_back(value, levels):
    payload = encode_levels(levels, leading=(value, 8))
    assert decode_levels(payload, levels.shape, leading_bits=8).leading == value


def test_bits_are_within_one_percent_of_what_the_estimates_say():
    # A million levels: what the arithmetic costs beyond its own probabilities.
    levels = np.rint(np.random.default_rng(0).normal(0, 2, 1_000_000)).astype(np.int32)
    payload = encode_levels(levels, search=False)
    np.testing.assert_array_equal(decode_levels(payload, levels.shape).levels, levels)
    bins = Bins(levels, PayloadLayout(shape=levels.shape))
    seen, costs = np.zeros(bins.contexts, np.int64), np.zeros((bins.contexts, engine.SETS + 1))
    starts = [np.tile(start, (bins.contexts, 1)) for start in (FAST_START, SLOW_START)]
    for count, _ in bins:
        engine.count_costs(bins.symbols, count, bins.contexts, seen, costs, *starts)
    assert 0.99 < 8 * len(payload) / costs[:, 0].sum() < 1.01


def test_changing_statistics_cost_less_than_their_common_entropy():
    # No static code can do this: the halves differ, the coder follows.
    generator = np.random.default_rng(1)
    levels = np.concatenate([generator.integers(-1, 2, 50_000), generator.integers(5, 9, 50_000)])
    payload = encode_levels(levels.astype(np.int32))
    assert 8 * len(payload) < 0.8 * order0_bits(levels)


def huffman_bits(levels: np.ndarray) -> int:
    """Length of the optimal prefix code, without its table."""
    heap = np.unique(levels, return_counts=True)[1].tolist()
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    return total


@pytest.mark.parametrize("keep", [1.0, 0.3, 0.1])
def test_quantised_weights_are_shorter_than_huffman_and_gzip(keep):
    levels = pruned(np.random.default_rng(2), (512, 512), keep)
    bits = 8 * len(encode_levels(levels))
    assert bits <= 1.02 * order0_bits(levels)
    assert bits < huffman_bits(levels)
    assert bits < 8 * len(gzip.compress(levels.astype(np.int8).tobytes(), 9))


def test_rows_of_zeros_cost_a_bin_each():
    levels = np.zeros((1000, 1000), np.int32)
    levels[::10] = np.random.default_rng(3).integers(-4, 5, (100, 1000))
    dense = len(encode_levels(levels[::10]))
    assert len(encode_levels(levels, skip_rows=True)) < dense + 200
    assert len(encode_levels(levels, skip_rows=True)) < len(encode_levels(levels, skip_rows=False))


def test_naming_initial_states_pays_on_small_tensors():
    levels = pruned(np.random.default_rng(4), (64, 64), 0.1)
    assert len(encode_levels(levels)) < len(encode_levels(levels, search=False))


@given(data=st.binary(max_size=60), count=st.integers(0, 3000), dependent=st.booleans())
@settings(max_examples=300)
def test_random_bytes_are_refused_or_decoded_but_never_worse(data, count, dependent):
    with contextlib.suppress(FormatError):
        assert decode_levels(data, (count,), dependent=dependent).bytes_read <= len(data)


def test_a_truncated_payload_is_refused_at_every_length():
    levels = np.random.default_rng(5).integers(-9, 10, (20, 20)).astype(np.int32)
    payload = encode_levels(levels)
    for length in range(len(payload)):
        with pytest.raises(FormatError, match="Offset"):
            decode_levels(payload[:length], levels.shape)
