"""Bit-packed files: exact, of the size that was counted, and safe against damage."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet.errors import FormatError
from tersenet.formats import Cer, Cser, Csr, Dense, Packed, from_bytes, smallest_format, to_bytes

FORMATS = [Dense, Csr, Cer, Cser]


def pruned(bits, zeros, *, shape=(256, 512), seed=0):
    """Gaussian weights, the smallest cut, the rest on an even grid of `bits` bits."""
    weights = np.random.default_rng(seed).standard_normal(shape)
    top = 2 ** (bits - 1) - 1
    levels = np.clip(np.round(weights / np.abs(weights).max() * top * 1.5), -top, top)
    levels[np.abs(weights) < np.quantile(np.abs(weights), zeros)] = 0
    return levels.astype(np.int8)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=80)
@given(
    matrix=hnp.arrays(
        st.sampled_from(
            [np.int8, np.int16, np.int64, np.uint8, np.uint64, np.float16, np.float32, np.float64]
        ),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.integers(0, 6),
    ),
    sign=st.booleans(),
)
def test_round_trip_and_size(kind, matrix, sign):
    if sign and matrix.dtype.kind != "u":
        matrix = matrix - matrix.dtype.type(3)
    encoded = kind.encode(matrix)
    data = to_bytes(encoded)
    back = from_bytes(data)
    assert type(back) is kind
    assert back.dense().dtype == matrix.dtype
    np.testing.assert_array_equal(back.dense(), matrix)
    assert back.arrays() == encoded.arrays()
    packed = sum(-(-array.bits // 8) for array in encoded.arrays())
    assert len(data) == 16 + 8 * len(encoded.arrays()) + packed + 4


def test_extreme_integers_survive():
    matrix = np.array([[-(2**63), 2**63 - 1, 0, 0]])
    for kind in FORMATS:
        np.testing.assert_array_equal(from_bytes(to_bytes(kind.encode(matrix))).dense(), matrix)


def test_a_large_file_is_packed_in_many_chunks():
    matrix = pruned(5, 0.5, shape=(700, 901))
    for kind in (Csr, Cer, Cser):
        np.testing.assert_array_equal(from_bytes(to_bytes(kind.encode(matrix))).dense(), matrix)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("zeros", [0.3, 0.6, 0.9])
def test_cer_files_are_smaller_than_csr_files_up_to_5_bits(bits, zeros):
    matrix = pruned(bits, zeros)
    assert len(to_bytes(Cer.encode(matrix))) < len(to_bytes(Csr.encode(matrix)))


def test_cer_loses_to_csr_with_8_bits_and_most_weights_pruned():
    # Each of 255 values occurs at most once in a short row: the pointers cost more than values.
    matrix = pruned(8, 0.9, shape=(512, 64))
    assert Cer.encode(matrix).bits > Csr.encode(matrix).bits


def test_smallest_format_is_the_smallest():
    for matrix in (pruned(2, 0.9), pruned(8, 0.0), pruned(8, 0.9, shape=(512, 64))):
        best = smallest_format(matrix)
        assert best.bits == min(kind.encode(matrix).bits for kind in FORMATS)
    assert isinstance(smallest_format(pruned(8, 0.0, shape=(512, 64))), Dense)


def test_a_fast_format_has_no_file():
    with pytest.raises(FormatError, match="Packed has no file"):
        to_bytes(Packed.encode(np.eye(3)))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_flipped_byte_and_every_truncation_is_found(kind):
    data = to_bytes(kind.encode(pruned(3, 0.5, shape=(6, 9))))
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 0x10
        with pytest.raises(FormatError):
            from_bytes(bytes(broken))
        with pytest.raises(FormatError):
            from_bytes(data[:at])
    with pytest.raises(FormatError):
        from_bytes(data + b"\0")


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=150)
@given(data=st.data())
def test_a_forged_file_is_refused_or_is_a_matrix(kind, data):
    """With the CRC made right again, nothing but FormatError or a consistent matrix comes out."""
    body = bytearray(to_bytes(kind.encode(pruned(3, 0.5, shape=(6, 9))))[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(4, len(body) - 1))] = data.draw(st.integers(0, 255))
    forged = bytes(body) + struct.pack("<I", zlib.crc32(body))
    try:
        matrix = from_bytes(forged)
    except FormatError:
        return
    rows, columns = matrix.shape
    dense = matrix.dense()
    assert dense.shape == (rows, columns)
    x = np.ones(columns)
    np.testing.assert_allclose(
        matrix @ x, dense.astype(np.float64) @ x, rtol=1e-6, atol=1e-3 * np.abs(dense).max() + 1e-9
    )


def test_counts_that_no_memory_holds_are_refused_at_once():
    body = bytearray(to_bytes(Csr.encode(np.eye(4)))[:-4])
    body[16:24] = struct.pack("<Q", 2**60)
    with pytest.raises(FormatError, match="bytes are due"):
        from_bytes(bytes(body) + struct.pack("<I", zlib.crc32(body)))
