"""Dense, CSR, CER and CSER: the deck's worked example, exact round trips, and products."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet.errors import FormatError
from tersenet.formats import Cer, Cser, Csr, Dense, Levels, energy_pj
from tersenet.formats.levels import index_dtype
from tersenet.formats.paper.classic import pointer_dtype

EXAMPLE = np.array(
    [
        [0, 3, 0, 2, 4, 0, 0, 2, 3, 4, 0, 4],
        [4, 4, 0, 0, 0, 4, 0, 0, 4, 4, 0, 4],
        [4, 0, 3, 4, 0, 0, 0, 4, 0, 2, 0, 0],
        [0, 0, 0, 4, 4, 4, 0, 3, 4, 4, 0, 0],
        [0, 4, 4, 0, 0, 4, 0, 4, 0, 0, 0, 0],
    ]
)
FORMATS = [Dense, Csr, Cer, Cser]


def counted(operations):
    return (operations.loads, operations.multiplications, operations.additions, operations.writes)


@pytest.mark.parametrize(
    ("kind", "entries", "second_row", "total"),
    [
        (Dense, 60, (24, 12, 11, 1), 240),
        (Csr, 62, (20, 6, 5, 1), 150),
        (Cer, 49, (17, 1, 5, 1), 129),
        (Cser, 59, (18, 1, 5, 1), 139),
    ],
)
def test_the_decks_example_in_all_its_counts(kind, entries, second_row, total):
    matrix = kind.encode(EXAMPLE)
    assert matrix.entries == entries
    assert counted(matrix.operations(1)) == second_row
    assert matrix.operations().total == total
    assert sum(matrix.operations(row).total for row in range(5)) == total


def test_the_decks_example_in_all_its_arrays():
    cer = Cer.encode(EXAMPLE)
    assert cer.values.tolist() == [0, 4, 3, 2]
    # fmt: off
    assert cer.columns.tolist() == [
        4, 9, 11, 1, 8, 3, 7, 0, 1, 5, 8, 9, 11, 0, 3, 7, 2, 9, 3, 4, 5, 8, 9, 7, 1, 2, 5, 7
    ]
    # fmt: on
    assert cer.segment_starts.tolist() == [0, 3, 5, 7, 13, 16, 17, 18, 23, 24, 28]
    assert cer.row_starts.tolist() == [0, 3, 4, 7, 9, 10]
    assert cer.padding == 0
    csr = Csr.encode(EXAMPLE)
    assert csr.values.tolist() == [int(v) for v in "3242344444444434424443444444"]
    reference = scipy.sparse.csr_matrix(EXAMPLE)
    np.testing.assert_array_equal(csr.columns, reference.indices)
    np.testing.assert_array_equal(csr.row_starts, reference.indptr)


def test_bits_of_the_example_by_hand():
    # Values fit 8 bits, 12 columns need 4, positions 0..28 need 5, and 0..10 need 4.
    assert Dense.encode(EXAMPLE).bits == 60 * 8
    assert Csr.encode(EXAMPLE).bits == 28 * 8 + 28 * 4 + 6 * 5
    assert Cer.encode(EXAMPLE).bits == 4 * 8 + 28 * 4 + 11 * 5 + 6 * 4
    assert Cser.encode(EXAMPLE).bits == 4 * 8 + 28 * 4 + 10 * 2 + 11 * 5 + 6 * 4


def test_energy_of_the_second_row_by_hand():
    # All arrays are under 8 KB: a load costs 1.25 pJ at up to 8 bits and 5 pJ at 32.
    arithmetic = 11 * 0.9 + 12 * 3.7
    dense = Dense.encode(EXAMPLE).operations(1)
    assert energy_pj(dense) == pytest.approx(12 * 1.25 + 12 * 5 + 5 + arithmetic)
    cer = Cer.encode(EXAMPLE).operations(1)
    assert energy_pj(cer) == pytest.approx(11 * 1.25 + 6 * 5 + 5 + 5 * 0.9 + 3.7)


def test_energy_grows_with_the_level_of_memory():
    # 2 MiB of 16-bit values come from beyond 1 MB: 500 pJ each; x and y of 4 KiB: 5 pJ each.
    matrix = np.full((1024, 1024), 1000, np.int16)
    operations = Dense.encode(matrix).operations()
    n = 1024 * 1024
    expected = n * 500 + n * 5 + 1024 * 5 + 1024 * 1023 * 0.9 + n * 3.7
    assert energy_pj(operations) == pytest.approx(expected)


def test_padding_stands_for_a_commoner_value_that_a_row_skips():
    matrix = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 2, 0], [1, 0, 0, 0, 0]])
    cer = Cer.encode(matrix)
    assert cer.padding == 1
    assert cer.segment_starts.tolist() == [0, 2, 2, 3, 4]
    np.testing.assert_array_equal(cer.dense(), matrix)
    # Row 1: colI and x, 2 rowPtr, 3 ΩPtr for its 2 segments, one Ω; one multiply, no sum.
    assert counted(cer.operations(1)) == (8, 1, 0, 1)


def test_the_omitted_value_need_not_be_zero():
    rng = np.random.default_rng(0)
    matrix = rng.choice([7.0, 0.0, -2.5], size=(6, 9), p=[0.8, 0.1, 0.1])
    x = rng.standard_normal(9)
    for kind in (Cer, Cser):
        encoded = kind.encode(matrix)
        assert encoded.values[0] == 7.0
        np.testing.assert_array_equal(encoded.dense(), matrix)
        np.testing.assert_allclose(encoded @ x, matrix @ x, rtol=1e-12)
        zeros = int((matrix != 7).sum())
        full = encoded.operations()
        # Σx: 9 loads, 8 sums, ω0 loaded and multiplied once; then one sum per row.
        assert full.reads[-1].count == zeros + 9
        rows = [encoded.operations(row) for row in range(6)]
        assert full.multiplications == sum(row.multiplications for row in rows) + 1
        assert full.additions == sum(row.additions for row in rows) + 8


@st.composite
def matrices(draw):
    dtype = draw(
        st.sampled_from([np.int8, np.uint8, np.int32, np.int64, np.float32, np.float64, np.float16])
    )
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
    alphabet = draw(st.lists(st.integers(-9 if dtype != np.uint8 else 0, 9), min_size=1))
    picks = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, len(alphabet) - 1)))
    array = np.array(alphabet)[picks].astype(dtype)
    order = draw(st.sampled_from(["C", "F", "reversed"]))
    if order == "F":
        return np.asfortranarray(array)
    return array[::-1, ::-1] if order == "reversed" else array


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=60)
@given(matrix=matrices(), seed=st.integers(0, 99))
def test_round_trip_is_exact_and_products_are_dense_products(kind, matrix, seed):
    encoded = kind.encode(matrix)
    back = encoded.dense()
    assert back.dtype == matrix.dtype
    np.testing.assert_array_equal(back, matrix)
    x = np.random.default_rng(seed).standard_normal((matrix.shape[1], 3))
    wide = matrix.astype(np.float64)
    np.testing.assert_allclose(encoded @ x, wide @ x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(encoded @ x[:, 0], wide @ x[:, 0], rtol=1e-12, atol=1e-12)
    single = encoded @ x.astype(np.float32)
    if matrix.dtype != np.float64:
        assert single.dtype == np.float32
    bound = 1e-5 * (np.abs(wide) @ np.abs(x) + 1)
    assert (np.abs(single - wide @ x) <= bound).all()


@settings(max_examples=60)
@given(matrix=matrices())
def test_entries_and_operations_by_the_definition(matrix):
    """Counts every format from the matrix itself, value by value, without building it."""
    values, counts = np.unique(matrix, return_counts=True)
    order = sorted(range(len(values)), key=lambda i: (-counts[i], values[i]))
    omega = values[order]
    nonzeros = int((matrix != 0).sum())
    assert Csr.encode(matrix).entries == 2 * nonzeros + matrix.shape[0] + 1
    stored = int((matrix != omega[0]).sum())
    present = [[bool((row == value).any()) for value in omega[1:]] for row in matrix]
    cer_segments = sum(max((k + 1 for k, on in enumerate(row) if on), default=0) for row in present)
    cser_segments = sum(map(sum, present))
    fixed = len(omega) + stored + matrix.shape[0] + 1
    cer, cser = Cer.encode(matrix), Cser.encode(matrix)
    assert cer.entries == fixed + cer_segments + 1
    assert cser.entries == fixed + 2 * cser_segments + 1
    assert cer.padding == cer_segments - cser_segments
    shifted = int(omega[0] != 0)
    assert cer.operations().multiplications == cser_segments + shifted


def test_columns_are_as_wide_as_the_matrix_needs():
    for columns, bits, dtype in [(65536, 16, np.uint16), (65537, 17, np.uint32)]:
        matrix = np.zeros((2, columns), np.int8)
        matrix[1, -1] = 3
        for kind in (Csr, Cer, Cser):
            encoded = kind.encode(matrix)
            widths = {array.name: array.bits_each for array in encoded.arrays()}
            assert widths["colI"] == bits
            assert encoded.columns.dtype == dtype
            np.testing.assert_array_equal(encoded.dense(), matrix)
            assert (encoded @ np.arange(columns, dtype=float)).tolist() == [0, 3 * (columns - 1)]


def test_positions_widen_beyond_32_bits():
    assert pointer_dtype((1 << 32) - 1) is np.uint32
    assert pointer_dtype(1 << 32) is np.uint64
    assert [index_dtype(1 << bits).__name__ for bits in (8, 16, 32)] == [
        "uint8",
        "uint16",
        "uint32",
    ]
    assert index_dtype((1 << 16) + 1) is np.uint32
    with pytest.raises(FormatError, match="more than 64 bits"):
        index_dtype((1 << 64) + 1)


def test_levels_are_ordered_by_frequency_then_value():
    levels = Levels.of(np.array([[5, 5, -1, -1, 0]]))
    assert levels.values.tolist() == [-1, 5, 0]
    assert levels.counts.tolist() == [2, 2, 1]
    assert levels.entropy_bits == pytest.approx(-(0.8 * np.log2(0.4) + 0.2 * np.log2(0.2)))
    assert levels.zero_share == pytest.approx(0.2)
    one = Levels.of(np.full((3, 4), 2.5))
    assert one.entropy_bits == 0.0


def test_levels_of_a_matrix_of_many_chunks():
    rng = np.random.default_rng(1)
    matrix = rng.integers(-300, 300, (1100, 1200)).astype(np.float32)
    matrix[1000:] += 0.5  # values that the first chunks do not hold
    levels = Levels.of(matrix)
    values, counts = np.unique(matrix, return_counts=True)
    np.testing.assert_array_equal(np.sort(levels.values), values)
    np.testing.assert_array_equal(np.sort(levels.counts), np.sort(counts))
    np.testing.assert_array_equal(levels.dense(), matrix)
