"""The formats laid out for the processor: exact round trips, and products as dense in float64."""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.errors import FormatError
from tersenet.formats import Even, Grouped, Levels, Packed, Panels, Signs, Sliced, Tiled
from tersenet.formats.lanes import INSTRUCTIONS

SPARSE = [Tiled, Sliced, Panels]
ANY_LEVELS = [Packed, *SPARSE]
TOLERANCE = 2e-6
"""Of the sum of the terms' sizes: float32 rounds each sum and product by at most 6e-8."""


def assert_like_dense(encoded, matrix, x):
    """Round trip exact; product with a vector and with a batch as in float64."""
    back = encoded.dense()
    assert back.dtype == matrix.dtype
    np.testing.assert_array_equal(back, matrix)
    wide = matrix.astype(np.float64)
    size = np.abs(wide - wide.flat[0]).max() + np.abs(wide).max()  # omitted values shift the rest
    bound = TOLERANCE * (size * np.abs(x.astype(np.float64)).sum(axis=0) + 1e-30)
    for operand, limit in ((x, bound), (x[:, 0].copy(), bound[0])):
        product = encoded @ operand
        assert product.dtype == np.float32
        assert product.shape == (matrix.shape[0], *operand.shape[1:])
        assert (np.abs(product - wide @ operand.astype(np.float64)) <= limit).all()


@st.composite
def levelled(draw, most):
    """A matrix of up to `most` values, uneven rows and columns, whatever value is commonest."""
    rows, columns = draw(st.integers(1, 70)), draw(st.integers(1, 150))
    seed, kinds = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, most))
    density = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
    rng = np.random.default_rng(seed)
    values = rng.choice(np.arange(-40, 40), size=kinds, replace=False) / 8
    if draw(st.booleans()):
        values[0] = 0
    picks = rng.integers(0, kinds, (rows, columns))
    uneven = rng.random((rows, 1)) * rng.random((1, columns)) * 4 * density
    picks[rng.random((rows, columns)) >= uneven] = 0
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return values[picks].astype(dtype)


@pytest.mark.parametrize("kind", ANY_LEVELS)
@settings(max_examples=60)
@given(matrix=levelled(32), batch=st.sampled_from([1, 3, 16, 65, 130]))
def test_up_to_32_levels(kind, matrix, batch):
    x = np.random.default_rng(batch).standard_normal((matrix.shape[1], batch)).astype(np.float32)
    assert_like_dense(kind.encode(matrix), matrix, x)


@st.composite
def of_many_levels(draw):
    """A matrix of 33 to 256 values, evenly spaced or not, any of them the commonest."""
    rows, columns = draw(st.integers(1, 50)), draw(st.integers(10, 400))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds, even = draw(st.integers(33, 256)), draw(st.booleans())
    first = draw(st.sampled_from([0, -128, -20, 7]))
    values = first + np.arange(kinds) if even else 40 * rng.standard_normal(kinds)
    picks = rng.integers(0, kinds, (rows, columns))
    keep = draw(st.sampled_from([0.02, 0.2, 1.0]))
    picks[rng.random((rows, columns)) >= keep] = draw(st.integers(0, kinds - 1))
    picks.reshape(-1)[: min(kinds, picks.size)] = np.arange(min(kinds, picks.size))
    step = draw(st.sampled_from([1.0, 0.1]))
    return (values[picks] * step).astype(np.float32), even


@pytest.mark.parametrize("kind", [Even, *ANY_LEVELS])
@settings(max_examples=40)
@given(drawn=of_many_levels(), batch=st.sampled_from([1, 3, 16, 65]))
def test_up_to_256_levels(kind, drawn, batch):
    matrix, even = drawn
    x = np.random.default_rng(batch).standard_normal((matrix.shape[1], batch)).astype(np.float32)
    if kind in {Even, Tiled} and not even and len(np.unique(matrix)) > 32:
        with pytest.raises(FormatError, match="one even grid of 256"):
            kind.encode(matrix)
    elif kind is not Even or even:
        assert_like_dense(kind.encode(matrix), matrix, x)


def test_steps_from_an_omitted_value_at_the_end_of_the_grid():
    matrix = np.zeros((40, 300), np.uint8)
    matrix[:, ::3] = np.arange(4000).reshape(40, 100) % 256
    for omitted in (0, 255):
        flipped = matrix if omitted == 0 else 255 - matrix
        tiled = Tiled.encode(flipped)
        assert tiled.values[0] == omitted
        np.testing.assert_array_equal(tiled.dense(), flipped)
        expected = flipped.astype(float) @ np.arange(300)
        np.testing.assert_allclose(tiled @ np.arange(300), expected, rtol=1e-6)


@settings(max_examples=100)
@given(matrix=levelled(5), batch=st.sampled_from([1, 3]))
def test_up_to_5_levels_in_groups(matrix, batch):
    x = np.random.default_rng(batch).standard_normal((matrix.shape[1], batch)).astype(np.float32)
    assert_like_dense(Grouped.encode(matrix), matrix, x)


@settings(max_examples=80)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 150),
    kinds=st.integers(1, 16),
    grid=st.sampled_from([(0.0, 1.0), (-0.7, 0.1), (-3.0, 0.375), (5.0, 2.0)]),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
    seed=st.integers(0, 999),
)
def test_up_to_16_even_levels_in_integers(rows, columns, kinds, grid, scale, seed):
    rng = np.random.default_rng(seed)
    first, step = grid
    matrix = (first + step * rng.integers(0, kinds, (rows, columns))).astype(np.float32)
    x = (rng.standard_normal((columns, 2)) * scale).astype(np.float32)
    assert_like_dense(Even.encode(matrix), matrix, x)


def test_even_sums_do_not_overflow_and_x_of_zeros_is_zero():
    matrix = np.full((1, 1 << 20), 15, np.int8)
    matrix[0, :2] = [0, 1]
    encoded = Even.encode(matrix)
    assert (encoded @ np.ones(1 << 20)).tolist() == [15 * ((1 << 20) - 2) + 1]
    assert (encoded @ np.full(1 << 20, -1.0)).tolist() == [-15 * ((1 << 20) - 2) - 1]
    assert (encoded @ np.zeros(1 << 20)).tolist() == [0]
    matrix = np.full((1, 1 << 16), 255, np.uint8)
    matrix[0, :2] = [0, 1]
    encoded = Even.encode(matrix)
    assert encoded.code_bits == 8
    assert (encoded @ np.ones(1 << 16)).tolist() == [255 * ((1 << 16) - 2) + 1]
    assert (encoded @ np.full(1 << 16, -1.0)).tolist() == [-255 * ((1 << 16) - 2) - 1]


def test_what_is_not_on_an_even_grid_of_256_is_refused():
    for values in ([0.0, 1.0, 2.5], [0.0, 1.0, 256.0]):
        with pytest.raises(FormatError, match="one even grid of 256"):
            Even.encode(np.array([values]))
    with pytest.raises(FormatError, match="up to 1048576 columns of 4 bits"):
        Even.encode(np.zeros((1, (1 << 20) + 1), np.int8))
    wide = np.zeros((1, (1 << 16) + 1), np.uint8)
    wide[0, :2] = [1, 255]
    with pytest.raises(FormatError, match="up to 65536 columns of 8 bits"):
        Even.encode(wide)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 600),
    size=st.sampled_from([1.0, 0.375]),
    seed=st.integers(0, 999),
)
def test_signs_multiply_signs_exactly(rows, columns, size, seed):
    rng = np.random.default_rng(seed)
    matrix = (rng.choice([-size, size], (rows, columns))).astype(np.float32)
    x = rng.choice([-2.0, 2.0], columns).astype(np.float32)
    encoded = Signs.encode(matrix)
    np.testing.assert_array_equal(encoded.dense(), matrix)
    np.testing.assert_array_equal(encoded @ x, matrix.astype(np.float64) @ x)


def test_signs_of_the_lowest_byte_and_of_one_value():
    lowest = np.full((2, 3), -128, np.int8)
    np.testing.assert_array_equal(Signs.encode(lowest).dense(), lowest)
    assert (Signs.encode(lowest) @ np.ones(3)).tolist() == [-384, -384]
    ones = np.ones((1, 70), np.uint8)
    assert (Signs.encode(ones) @ -np.ones(70)).tolist() == [-70]


@pytest.mark.parametrize("kind", [Tiled, Sliced])
def test_gaps_longer_than_an_entry_can_step(kind):
    matrix = np.zeros((3, 9000), np.float32)
    matrix[0, [0, 2047, 4095, 8999]] = [1, 2, 3, 4]
    matrix[2, 8999] = 5
    x = np.arange(9000, dtype=np.float32)
    assert (kind.encode(matrix) @ x).tolist() == [2 * 2047 + 3 * 4095 + 4 * 8999, 0, 5 * 8999]
    np.testing.assert_array_equal(kind.encode(matrix).dense(), matrix)


def test_tiles_start_on_a_line_of_the_cache():
    lines = Tiled.encode(np.eye(300, dtype=np.float32)).lines
    assert lines.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    ("kinds", "stored", "width"), [(20, 0.05, 32), (20, 0.01, 64), (200, 0.05, 64)]
)
def test_tiles_go_by_panels_of_columns(kinds, stored, width):
    rng = np.random.default_rng(7)
    shape = (57, 9001)  # 4 slabs, 3 panels, neither of them full
    matrix = np.where(rng.random(shape) < stored, rng.integers(1, kinds, shape), 0)
    tiled = Tiled.encode(matrix)
    assert tiled.width == width
    assert len(tiled.starts) == 3 * 4 + 1
    of_panel = tiled.blocks.astype(int) * width // 4096
    for panel in range(3):
        first, last = tiled.starts[[4 * panel, 4 * panel + 4]]
        # The second of two visits may be there for evenness only.
        filled = tiled.lines[first:last].any(axis=1)
        assert (of_panel[first:last][filled] == panel).all()
    assert_like_dense(tiled, matrix, rng.standard_normal((9001, 2)).astype(np.float32))


def test_copies_multiply_with_their_own_arrays():
    matrix = np.eye(70, dtype=np.float32)
    tiled = Tiled.encode(matrix)
    x = np.arange(70, dtype=np.float32)
    np.testing.assert_array_equal(tiled @ x, x)  # from here on it knows where its arrays lie
    for other in (copy.deepcopy(tiled), pickle.loads(pickle.dumps(tiled))):
        assert set(vars(other)) == {field.name for field in dataclasses.fields(Tiled)}
        other.lines[:] = 0
        np.testing.assert_array_equal(other @ x, np.zeros(70))
    np.testing.assert_array_equal(tiled @ x, x)


@pytest.mark.parametrize(("zeros", "width"), [(0.9, 32), (0.99, 64)])
def test_a_tile_keeps_what_fits_and_hands_on_the_rest(zeros, width):
    rng = np.random.default_rng(3)
    matrix = np.where(rng.random((1500, 1500)) < zeros, 0.0, 1.5).astype(np.float32)
    matrix[5, :32] = 2.5  # one row of a tile is full: alone, it is not worth ten more lines
    tiled = Tiled.encode(matrix)
    assert tiled.width == width
    assert 0 < np.count_nonzero(tiled.rest_entries) < 0.2 * np.count_nonzero(matrix)
    assert_like_dense(tiled, matrix, rng.standard_normal((1500, 2)).astype(np.float32))
    small = Tiled.encode(matrix[:256])
    assert small.rest_entries.size == 0
    np.testing.assert_array_equal(small.dense(), matrix[:256])


def test_bytes_an_element_are_what_the_docs_say():
    rng = np.random.default_rng(0)
    elements = 960 * 960
    for kinds, kind, bits in [
        (2, Grouped, 1.0),
        (3, Grouped, 32 / 18),
        (4, Grouped, 2.0),
        (5, Grouped, 32 / 12),
        (16, Packed, 4.0),
        (16, Even, 4.0),
        (32, Packed, 32 / 6),
        (200, Packed, 8.0),
        (200, Even, 8.0),
    ]:
        matrix = rng.integers(0, kinds, (960, 960))
        stream = 8 * kind.encode(matrix).stream_bytes / elements
        assert stream == pytest.approx(bits, rel=0.03)
    signs = Signs.encode(np.where(matrix > 99, 1, -1))
    assert 8 * signs.stream_bytes / elements == pytest.approx(1, rel=0.07)


@pytest.mark.parametrize("kind", ANY_LEVELS)
def test_more_than_256_values_are_refused(kind):
    with pytest.raises(FormatError, match="up to 256 distinct values and the matrix has 257"):
        kind.encode(np.arange(257)[None, :])


@pytest.mark.parametrize("kind", [*ANY_LEVELS, Grouped, Signs])
@pytest.mark.parametrize(
    "value", [2**24 + 1, 2**63 - 1, 0.1, 1e300], ids=["2**24+1", "int64", "0.1", "1e300"]
)
def test_values_that_float32_cannot_hold_are_refused(kind, value):
    with pytest.raises(FormatError, match="cannot hold the value"):
        kind.encode(np.array([[value, -value]]))


def test_values_that_are_not_opposite_signs_are_refused():
    for values in ([[1.0, 2.0]], [[0.0, 0.0]], [[-1.0, 2.0]]):
        with pytest.raises(FormatError, match="two opposite values"):
            Signs.encode(np.array(values))
    with pytest.raises(FormatError, match="up to 2 distinct"):
        Signs.encode(np.array([[-1.0, 0.0, 1.0]]))
    with pytest.raises(FormatError, match="binarise"):
        _ = Signs.encode(np.array([[-1.0, 1.0]])) @ np.array([1.0, 0.5])


def test_too_many_columns_for_a_tile_are_refused():
    with pytest.raises(FormatError, match="counts up to 4194304 columns"):
        Tiled.encode(np.zeros((1, 4194305), np.int8))


def test_more_columns_than_a_gather_can_index_are_refused():
    ranks = np.broadcast_to(np.uint8(0), (1, 1 << 31))  # takes no memory
    levels = Levels(ranks=ranks, values=np.zeros(1), counts=np.array([1 << 31]))
    with pytest.raises(FormatError, match="up to 2147483647 columns"):
        Sliced.encode(levels)


@pytest.mark.parametrize(("kinds", "width"), [(32, 2048), (200, 256)])
def test_columns_at_the_edges_of_panels(kinds, width):
    for columns in (width - 1, width, width + 1, 2 * width + 1):
        matrix = np.zeros((3, columns), np.float32)
        matrix[0, [0, columns - 1]] = [1, 2]
        matrix[2, -min(kinds, columns) :] = np.arange(min(kinds, columns)) * 0.7
        x = np.random.default_rng(0).standard_normal((columns, 17)).astype(np.float32)
        assert_like_dense(Panels.encode(matrix), matrix, x)


OTHER_PROCESSOR = """
import numpy as np
from tersenet.formats import Even, Grouped, Packed, Sliced, Tiled, lanes
assert lanes.INSTRUCTIONS == {expected!r}, lanes.INSTRUCTIONS
rng = np.random.default_rng(0)
x = rng.standard_normal(100).astype(np.float32)
for kinds, formats in [
    (16, (Packed, Even)), (32, (Sliced,)), (3, (Grouped,)), (200, (Even, Tiled, Sliced)),
]:
    matrix = rng.integers(0, kinds, (50, 100)) * (rng.random((50, 100)) < 0.4)
    for kind in formats:
        error = np.abs(kind.encode(matrix) @ x - matrix @ x.astype(np.float64)).max()
        assert error < 1e-4 * kinds, (kind, error)
"""


@pytest.mark.skipif(INSTRUCTIONS == "any", reason="this is the plainest processor already")
@pytest.mark.parametrize(("processor", "expected"), [("haswell", "avx2"), ("generic", "any")])
def test_the_same_products_on_lesser_processors(processor, expected, tmp_path):
    if expected == "avx2" and INSTRUCTIONS not in {"avx512", "avx2"}:
        pytest.skip("no AVX2 here")
    features = "+avx,+avx2,+fma" if expected == "avx2" else ""
    environment = os.environ | {
        "NUMBA_CPU_NAME": processor,
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESSOR.format(expected=expected)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
