"""Rows 47 to 51: matrices and weights in few bytes."""

import gzip
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = np.array(
    [
        [0, 3, 0, 2, 4, 0, 0, 2, 3, 4, 0, 4],
        [4, 4, 0, 0, 0, 4, 0, 0, 4, 4, 0, 4],
        [4, 0, 3, 4, 0, 0, 0, 4, 0, 2, 0, 0],
        [0, 0, 0, 4, 4, 4, 0, 3, 4, 4, 0, 0],
        [0, 4, 4, 0, 0, 4, 0, 4, 0, 0, 0, 0],
    ],
    dtype=np.float32,
)
"""The matrix of the fifth deck."""


def test_row_47_sparse_formats() -> None:
    """Dense, CSR, CER and CSER.

    Entries stored and operations of row 2 on the fifth deck's matrix; every format returns the
    matrix and its product with a vector.
    """
    formats = import_module("tersenet.formats")
    kinds = {"dense": formats.Dense, "csr": formats.Csr, "cer": formats.Cer, "cser": formats.Cser}
    built = {name: kind.encode(EXAMPLE) for name, kind in kinds.items()}
    entries = {name: one.entries for name, one in built.items()}
    assert entries == {"dense": 60, "csr": 62, "cer": 49, "cser": 59}
    operations = {name: built[name].operations(1).total for name in ("dense", "csr", "cer")}
    assert operations == {"dense": 48, "csr": 32, "cer": 24}
    vector = np.arange(12, dtype=np.float32)
    for one in built.values():
        assert np.array_equal(one.dense(), EXAMPLE)
        assert np.allclose(one @ vector, EXAMPLE @ vector)


@pytest.mark.not_built
def test_row_48_cer_files() -> None:
    """CER products and bit-packed files.

    For Laplace weights of up to 5 bits CER takes fewer bytes than CSR; the choice of format
    per layer takes the smallest.
    """
    formats = import_module("tersenet.formats")
    weights = np.random.default_rng(0).laplace(size=(256, 1024))
    for bits in (2, 3, 4, 5):
        step = np.abs(weights).max() / 2 ** (bits - 1)
        levels = np.round(weights / step).astype(np.int8)
        sizes = {name: len(form(levels).packed()) for name, form in formats.FORMATS.items()}
        assert sizes["cer"] < sizes["csr"]
        assert len(formats.smallest(levels).packed()) == min(sizes.values())


@pytest.mark.not_built
def test_row_49_arithmetic_coder() -> None:
    """The context-adaptive binary arithmetic coder.

    Lossless; at most 2 % above the entropy of the levels; smaller than gzip.
    """
    codec = import_module("tersenet.codec")
    levels = np.round(np.random.default_rng(0).laplace(scale=0.7, size=200_000)).astype(np.int32)
    coded = codec.encode(levels)
    assert np.array_equal(codec.decode(coded), levels)
    shares = np.unique(levels, return_counts=True)[1] / levels.size
    entropy_bytes = -(shares * np.log2(shares)).sum() * levels.size / 8
    assert len(coded) <= 1.02 * entropy_bytes
    assert len(coded) < len(gzip.compress(levels.astype(np.int8).tobytes(), 9))


@pytest.mark.not_built
def test_row_50_rate_distortion() -> None:
    """Rate-distortion quantisation weighted by the Fisher information.

    At three trade-offs or more, neither bits nor loss are above uniform quantisation's; the KL
    divergence approaches half the quadratic form as the change shrinks.
    """
    found = import_module("tersenet.study").rate_distortion()
    assert sum(point.dominates_uniform for point in found.points) >= 3
    assert found.kl_over_quadratic[-1] == pytest.approx(1, abs=0.02)


@pytest.mark.not_built
def test_row_51_container(tmp_path: Path) -> None:
    """The container file.

    A checksum guards it; a damaged header is an error and executes nothing; the size reported
    is the size of the file.
    """
    codec = import_module("tersenet.codec")
    path = tmp_path / "weights.nnc"
    size = codec.write(path, {"weight": np.arange(-50, 50, dtype=np.int8)})
    assert size == path.stat().st_size
    whole = path.read_bytes()
    assert b"pickle" not in whole
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(codec.CodecError):
            codec.read(path)
