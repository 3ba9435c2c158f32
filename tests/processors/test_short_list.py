"""What must hold on every processor: coding, products in each format, int8 files.

Run natively with all tests, and emulated by `scripts/processors`; so nothing here imports PyTorch,
which takes half a minute there. The name of the emulated processor is in TERSENET_PROCESSOR.
"""

import os

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from tersenet.codec import Quantised, decode, decode_levels, encode, encode_levels
from tersenet.codec.arithmetic.ans import decode_bytes, encode_bytes
from tersenet.formats import (
    Cer,
    Cser,
    Csr,
    Dense,
    Even,
    Grouped,
    Network,
    NetworkStep,
    Packed,
    Panels,
    Signs,
    Sliced,
    Tiled,
    network_bytes,
    read_network,
)
from tersenet.formats.lanes import BYTE_DOT, INSTRUCTIONS
from tersenet.formats.network.operations import (
    AdaptiveAveragePool,
    Convolution,
    Flatten,
    Linear,
    Relu,
)
from tersenet.measure import RUNTIMES, describe_device, open_session

PROCESSOR = os.environ.get("TERSENET_PROCESSOR")
SWITCHED = PROCESSOR is None and "NUMBA_CPU_FEATURES" in os.environ
TOLERANCE = 2e-6
"""Of the sum of the terms' sizes: float32 rounds each sum and product by at most 6e-8."""


@pytest.mark.skipif(SWITCHED, reason="Numba is told to compile for another processor than this")
def test_kernels_are_compiled_for_the_processor_that_runs_them():
    # NumPy asks the processor by itself.
    has = np._core._multiarray_umath.__cpu_features__
    expected = "avx512" if has["AVX512F"] else "avx2" if has["AVX2"] else "any"
    assert expected == INSTRUCTIONS
    assert has["AVX512VNNI"] == BYTE_DOT
    if PROCESSOR:
        assert expected == {"haswell": "avx2", "nehalem": "any"}[PROCESSOR]


@pytest.mark.parametrize("effort", ["fast", "normal", "best"])
def test_a_container_is_the_same_to_the_byte(files, effort):
    written = (files / f"{effort}.nnc").read_bytes()
    with np.load(files / "tensors.npz") as saved:
        tensors = dict(saved)
    levels = tensors.pop("levels")
    back = decode(written)
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array)
    np.testing.assert_array_equal(back["quantised"], levels * np.float32(2.0**-7))
    quantised = {"quantised": Quantised(levels=levels, step=2.0**-7)}
    order = [name for name in back if name != "quantised"]
    assert encode(quantised | {name: tensors[name] for name in order}, effort=effort) == written


@pytest.mark.parametrize("most", [1, 40, 30_000])
def test_levels_come_back_from_the_arithmetic_coder(most):
    levels = np.random.default_rng(most).integers(-most, most + 1, (20, 90)).astype(np.int32)
    payload = encode_levels(levels)
    np.testing.assert_array_equal(decode_levels(payload, levels.shape).levels, levels)


def test_bytes_come_back_from_ans():
    values = np.random.default_rng(0).normal(128, 9, 30_000).astype(np.uint8)
    block = encode_bytes(values)
    np.testing.assert_array_equal(decode_bytes(block, len(values)), values)
    counts = np.bincount(values)
    shares = counts[counts > 0] / len(values)
    assert len(block) < 1.005 * -(shares * np.log2(shares)).sum() * len(values) / 8 + 400


KINDS = {
    Dense: 256, Csr: 256, Cer: 16, Cser: 16, Packed: 32, Even: 256, Grouped: 5, Tiled: 32,
    Sliced: 32, Panels: 32,
}  # fmt: skip
"""The formats, with how many values a matrix may hold in each."""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_products_are_as_dense_in_float64(kind):
    rng = np.random.default_rng(KINDS[kind])
    for values in sorted({2, KINDS[kind] // 2 + 1, KINDS[kind]}):
        matrix = rng.integers(-(values // 2), (values + 1) // 2, (37, 131)).astype(np.float32) / 8
        matrix[rng.random(matrix.shape) < 0.4] = 0
        _assert_products(kind, matrix, rng)


def _assert_products(kind, matrix, rng):
    encoded = kind.encode(matrix)
    np.testing.assert_array_equal(encoded.dense(), matrix)
    wide = matrix.astype(np.float64)
    for batch in (1, 5, 70):
        x = rng.standard_normal((matrix.shape[1], batch)).astype(np.float32)
        bound = TOLERANCE * 2 * np.abs(wide).max() * np.abs(x).sum(axis=0)
        assert (np.abs(encoded @ x - wide @ x) <= bound).all()
        assert (np.abs(encoded @ x[:, 0].copy() - wide @ x[:, 0]) <= bound[0]).all()


def test_signs_are_multiplied_exactly():
    rng = np.random.default_rng(1)
    matrix, x = (rng.choice(np.float32([-0.5, 0.5]), size) for size in ((37, 131), (131, 3)))
    np.testing.assert_array_equal(Signs.encode(matrix) @ x, matrix @ x)


@pytest.mark.parametrize("kind", [Packed, Even, Grouped, Tiled, Sliced, Panels])
def test_a_network_of_matrices_computes_what_its_definition_says(kind):
    rng = np.random.default_rng(2)
    first, last = (rng.integers(-2, 3, size).astype(np.float32) / 4 for size in ((24, 27), (5, 24)))
    steps = (
        NetworkStep(operation=Convolution(matrix=kind.encode(first), kernel=(3, 3)), reads=(0,)),
        NetworkStep(operation=Relu(), reads=(1,)),
        NetworkStep(operation=AdaptiveAveragePool(size=(1, 1)), reads=(2,)),
        NetworkStep(operation=Flatten(), reads=(3,)),
        NetworkStep(operation=Linear(matrix=kind.encode(last)), reads=(4,)),
    )
    network = read_network(network_bytes(Network((3, 8, 8), steps)))
    x = rng.standard_normal((4, 3, 8, 8)).astype(np.float32)
    patches = sliding_window_view(x.astype(np.float64), (3, 3), axis=(2, 3))
    hidden = np.einsum("nchwij,ocij->nohw", patches, first.reshape(24, 3, 3, 3))
    expected = np.maximum(hidden, 0).mean((2, 3)) @ last.T
    np.testing.assert_allclose(network(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_int8_file_computes_what_its_simulation_does(files, runtime):
    if not RUNTIMES[runtime].installed():
        pytest.skip(f"{runtime} is not installed")
    assert _difference(files / "int8-7-bit-weights", runtime) <= 0.01
    of_8_bits = _difference(files / "int8-8-bit-weights", runtime)
    capped = os.environ.get("ONEDNN_MAX_CPU_ISA") if runtime == "openvino" else None
    if PROCESSOR == "haswell" or capped == "AVX2":
        assert of_8_bits > 0.01  # sums of 16 bits overflow: what the eighth bit is given up for
    elif PROCESSOR is None and capped is None and describe_device().has_int8_dot:
        assert of_8_bits <= 0.01


def _difference(path, runtime):
    """The largest difference from the simulation, relative to the largest output."""
    with np.load(f"{path}.npz") as saved:
        inputs, outputs = saved["inputs"], saved["outputs"]
    (found,) = open_session(path.with_suffix(".onnx"), runtime=runtime)(inputs)
    return np.abs(found - outputs).max() / np.abs(outputs).max()
