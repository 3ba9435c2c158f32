"""Static ANS is exact, as short as the histogram allows, and wary."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.codec.arithmetic.ans import decode_bytes, encode_bytes
from tersenet.errors import FormatError


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_bytes_come_back(data):
    values = np.frombuffer(data, np.uint8)
    np.testing.assert_array_equal(decode_bytes(encode_bytes(values), len(values)), values)


@pytest.mark.parametrize("scale", [0.3, 3, 30])
def test_length_is_the_entropy_of_the_histogram(scale):
    generator = np.random.default_rng(0)
    values = np.clip(np.rint(generator.laplace(0, scale, 300_000)), -128, 127)
    values = values.astype(np.int8).view(np.uint8)
    p = np.bincount(values) / len(values)
    entropy = -(p[p > 0] * np.log2(p[p > 0])).sum() * len(values) / 8
    block = encode_bytes(values)
    np.testing.assert_array_equal(decode_bytes(block, len(values)), values)
    # 12 bits for a probability, and the table itself.
    assert entropy < len(block) < 1.005 * entropy + 400


@given(
    flips=st.lists(st.integers(0, 8 * 150 - 1), min_size=1, max_size=3), count=st.integers(0, 400)
)
def test_damage_is_refused_or_harmless(flips, count):
    block = bytearray(encode_bytes(np.arange(300, dtype=np.uint16).astype(np.uint8) % 11))
    for flip in flips:
        block[flip // 8 % len(block)] ^= 1 << flip % 8
    with contextlib.suppress(FormatError):
        assert len(decode_bytes(bytes(block), count)) == count
