"""Rows 47 to 51: matrices and weights in few bytes."""

import gzip
import heapq
import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tersenet.core.files import load_tensors, load_weights
from tersenet.errors import FormatError
from tersenet.train.tasks import load_fashion_mnist

WEIGHTS = Path(__file__).parents[2] / "weights" / "resnet20-fashion-mnist.safetensors"

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


def test_row_48_cer_files() -> None:
    """CER products and bit-packed files.

    For Laplace weights of 2 to 5 bits the file of CER has fewer bytes than that of CSR, and the
    product is the dense one; per layer the choice is the format of fewest bytes, which reads back.
    """
    formats = import_module("tersenet.formats")
    kinds = (formats.Dense, formats.Csr, formats.Cer, formats.Cser)
    generator = np.random.default_rng(0)
    weights, vector = generator.laplace(size=(256, 1024)), generator.standard_normal(1024)
    for bits in (2, 3, 4, 5):
        levels = np.round(weights / (np.abs(weights).max() / 2 ** (bits - 1)))
        built = {kind.__name__: kind.encode(levels) for kind in kinds}
        sizes = {name: len(formats.to_bytes(one)) for name, one in built.items()}
        assert sizes["Cer"] < sizes["Csr"]
        assert np.allclose(built["Cer"] @ vector, levels @ vector)
        chosen = formats.to_bytes(formats.smallest_format(levels))
        assert len(chosen) == min(sizes.values())
        assert np.array_equal(formats.from_bytes(chosen).dense(), levels)
    # No two values alike, so there is nothing to share: another format wins.
    assert isinstance(formats.smallest_format(weights), formats.Dense)


def huffman_bits(counts: list[int]) -> int:
    """The bits of a static Huffman code, without its table: merges of the two rarest."""
    heap, total = sorted(counts), 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


def test_row_49_arithmetic_coder() -> None:
    """The context-adaptive binary arithmetic coder.

    On the quantised weights of the shipped network, layer by layer: lossless, at most 2 % above
    the entropy of the levels in all, and smaller than gzip and than Huffman.
    """
    codec = import_module("tersenet.codec")
    tensors, _ = load_tensors(WEIGHTS)
    coded = entropy = huffman = zipped = 0.0
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            continue
        rows = tensor.flatten(1)
        levels = (rows / (rows.abs().max() / 15)).round().int().numpy()
        stream = codec.encode_levels(levels)
        assert np.array_equal(codec.decode_levels(stream, levels.shape).levels, levels), name
        counts = np.unique(levels, return_counts=True)[1]
        coded += len(stream)
        entropy += -(counts * np.log2(counts / levels.size)).sum() / 8
        huffman += huffman_bits(counts.tolist()) / 8
        zipped += len(gzip.compress(levels.astype(np.int8).tobytes(), 9))
    assert coded <= 1.02 * entropy
    assert coded < huffman
    assert coded < zipped


def test_row_50_rate_distortion(fashion_folder: Path) -> None:
    """Rate-distortion quantisation weighted by the Fisher information.

    At three trade-offs or more, neither bits nor loss are above uniform quantisation's; the KL
    divergence approaches half the quadratic form as the change shrinks.
    """
    trace_front = import_module("tersenet.study.rate_distortion").trace_front
    model = import_module("tersenet.models").lenet5(in_channels=1)
    load_weights(model, WEIGHTS.with_name("lenet5-fashion-mnist.safetensors"))
    images = load_fashion_mnist(
        folder=fashion_folder, train_images=768, test_images=100, calibration=768
    ).subject(model)
    inputs = [batch for batch, _ in images.calibration]
    found = trace_front(model, calibration=inputs[:3], held_out=inputs[3:])
    assert sum(point.dominates_uniform for point in found.points) >= 3
    assert found.kl_over_quadratic[-1] == pytest.approx(1, abs=0.02)


def test_row_51_container(tmp_path: Path) -> None:
    """The container file.

    A checksum guards it: no damaged byte goes unnoticed, and damage anywhere is one error, never
    another and never code that runs; the size reported is the size of the file.
    """
    codec = import_module("tersenet.codec")
    weights = {
        "float": np.linspace(-1, 1, 40, dtype=np.float32),
        "bytes": np.arange(-50, 50, dtype=np.int8),
    }
    whole = codec.encode(weights)
    path = tmp_path / "weights.nnc"
    path.write_bytes(whole)
    assert len(whole) == path.stat().st_size
    found = codec.decode(path.read_bytes())
    assert all(np.array_equal(found[name], values) for name, values in weights.items())
    generator = np.random.default_rng(0)
    for at in range(len(whole)):
        bit = int(generator.integers(1, 256))
        with pytest.raises(FormatError):
            codec.decode(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        with pytest.raises(FormatError):
            codec.decode(whole[:at])
    for _ in range(300):  # headers that nobody wrote
        noise = generator.bytes(int(generator.integers(1, 64)))
        with pytest.raises(FormatError):
            codec.decode(whole[: int(generator.integers(4, 16))] + noise)
    with pytest.raises(FormatError):
        codec.decode(pickle.dumps(weights))
