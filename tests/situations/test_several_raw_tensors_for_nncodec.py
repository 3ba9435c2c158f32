"""A network goes to NNCodec with biases and statistics that are kept as they are."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tersenet.codec.iso import decode_nnc, encode_nnc, step_of
from tersenet.codec.iso.exact import exact_levels
from tersenet.codec.levels.quantised import Quantised
from tersenet.codec.levels.steps import nearest

PEER = os.environ.get("TERSENET_NNCODEC_PYTHON")
SCRIPT = Path(__file__).parents[1] / "interop" / "nncodec_peer.py"


def floats(seed: int, *shape: int) -> np.ndarray:
    """Between a half and 2: 24 bits and one for the octave."""
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


def network() -> dict[str, Quantised | np.ndarray]:
    weights = np.random.default_rng(0).laplace(0, 0.05, (16, 9)).astype(np.float32)
    step = step_of(-32)
    wide = np.random.default_rng(1).normal(size=300).astype(np.float32)
    wide[0], wide[1] = 1e-30, -0.0
    return {
        "first.bias": floats(2, 16),
        "first.weight": Quantised(levels=nearest(weights, step), step=step),
        "wide": wide,
        "norm.running_var": floats(3, 16),
        "norm.running_mean": -floats(4, 16),
        "count": np.array([7, 2**20], np.int32),
        "kernel": floats(5, 4, 2, 3),
        "zero": np.zeros(5, np.float32),
        "last.weight": Quantised(levels=nearest(weights.T, step), step=step),
    }


def same(found: dict[str, np.ndarray], tensors: dict[str, Quantised | np.ndarray]) -> None:
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        due = tensor.weights() if isinstance(tensor, Quantised) else tensor
        assert found[name].dtype == due.dtype
        assert found[name].shape == due.shape
        assert found[name].tobytes() == due.tobytes(), name


def test_we_read_them_bit_for_bit_and_the_raw_one_is_last():
    data = encode_nnc(network())
    found = decode_nnc(data)
    same(found, network())
    assert list(found)[-1] == "wide"
    assert data.endswith(network()["wide"].astype("<f4").tobytes())


@pytest.mark.skipif(PEER is None, reason="TERSENET_NNCODEC_PYTHON names no Python with NNCodec")
@pytest.mark.parametrize("left_out", ["none", "wide"])
def test_nncodec_reads_them_bit_for_bit(left_out, tmp_path):
    tensors = {name: one for name, one in network().items() if name != left_out}
    (tmp_path / "a.nnc").write_bytes(encode_nnc(tensors))
    job = ["decompress", str(tmp_path / "a.nnc"), str(tmp_path / "a.npz")]
    subprocess.run([str(PEER), str(SCRIPT), *job], check=True, timeout=280)
    same(dict(np.load(tmp_path / "a.npz")), tensors)


def test_two_that_neither_side_could_read_back_are_refused():
    tensors = network() | {"other": network()["wide"]}
    with pytest.raises(ValueError, match="'wide' and 'other' are floats of more than 31 bits"):
        encode_nnc(tensors)


@pytest.mark.parametrize("seed", range(5))
def test_levels_are_exact_or_there_are_none(seed):
    generator = np.random.default_rng(seed)
    spread = generator.uniform(0, 12)
    values = np.exp2(generator.uniform(-spread, 0, 50)).astype(np.float32)
    found = exact_levels(values)
    bits = np.frexp(values)[1]
    if found is None:
        assert int(bits.max()) - int(bits.min()) > 31 - 24
    else:
        assert found.weights().tobytes() == values.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.0])
def test_what_has_no_level_is_kept_raw(value):
    assert exact_levels(np.array([1, value], np.float32)) is None
    same(decode_nnc(encode_nnc({"x": np.array([1, value], np.float32)})), {
        "x": np.array([1, value], np.float32)
    })  # fmt: skip
