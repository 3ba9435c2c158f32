import subprocess
import sys

import numpy as np
import pytest
import torch

from tersenet.core.types import Deployment
from tersenet.errors import MeasureError
from tersenet.measure import RUNTIMES, installed, open_session, predictor

WEIGHT = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
BIAS = np.random.default_rng(1).normal(size=4).astype(np.float32)
INPUTS = np.random.default_rng(2).normal(size=(7, 6)).astype(np.float32)
EXPECTED = np.maximum(INPUTS @ WEIGHT + BIAS, 0)


@pytest.fixture(params=list(RUNTIMES))
def runtime(request):
    if not RUNTIMES[request.param].installed():
        pytest.skip(f"{request.param} is not installed")
    return request.param


def test_a_session_computes_the_file(affine, runtime):
    session = open_session(affine("a.onnx", WEIGHT, BIAS), runtime=runtime)
    for arrays in (INPUTS, (INPUTS,), {"x": INPUTS}):
        (found,) = session(arrays)
        np.testing.assert_allclose(found, EXPECTED, atol=1e-6)
    assert session.outputs == ("y",)
    assert session.inputs[0].shape == (None, 6)
    assert session.inputs[0].dtype == np.float32


def test_outputs_are_not_overwritten_by_the_next_call(affine, runtime):
    session = open_session(affine("a.onnx", WEIGHT, BIAS), runtime=runtime)
    (first,) = session(INPUTS)
    session(np.zeros_like(INPUTS))
    np.testing.assert_allclose(first, EXPECTED, atol=1e-6)


def test_inputs_of_several_types_by_name_and_in_order(subtraction, runtime):
    session = open_session(subtraction, runtime=runtime)
    x, k = np.full((2, 3), 5.0, np.float32), np.full((2, 3), 3, np.int64)
    for arrays in ((x, k), {"k": k, "x": x}):
        np.testing.assert_array_equal(session(arrays)[0], np.full((2, 3), 2.0))
    feeds = session.random_feeds(batch=1000, seed=4)
    assert set(np.unique(feeds["k"])) == {0, 1}
    assert abs(feeds["x"].std() - 1) < 0.05
    np.testing.assert_array_equal(feeds["x"], session.random_feeds(batch=1000, seed=4)["x"])


def test_unfused_execution_keeps_the_nodes_and_the_numbers(affine):
    path = affine("a.onnx", WEIGHT, BIAS)
    (found,) = open_session(path, optimise=False)(INPUTS)
    np.testing.assert_allclose(found, EXPECTED, atol=1e-6)
    with pytest.raises(MeasureError, match="unfused"):
        open_session(path, runtime="openvino", optimise=False)


def test_onnxruntime_starts_only_the_threads_asked_for(square):
    # In a fresh process: here, threads of other libraries come and go.
    script = (
        "import sys; from pathlib import Path; from tersenet.measure import open_session\n"
        "count = lambda: sum(1 for _ in Path('/proc/self/task').iterdir())\n"
        "import onnxruntime; found = [count()]; sessions = []\n"
        "for threads in (1, 3):\n"
        "    sessions.append(open_session(Path(sys.argv[1]), threads=threads))\n"
        "    found.append(count())\n"
        "print(*found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(square(8))], capture_output=True, text=True, check=True
    )
    idle, one, three = map(int, done.stdout.split())
    assert one == idle  # the caller alone
    assert three == idle + 2  # two beside the caller


def test_a_predictor_is_the_file_as_a_function_of_tensors(affine, runtime):
    predict = predictor(
        affine("a.onnx", WEIGHT, BIAS), deployment=Deployment(runtime=runtime, threads=1)
    )
    for count in (1, 7):
        found = predict(torch.from_numpy(INPUTS[:count]).requires_grad_())
        np.testing.assert_allclose(found.numpy(), EXPECTED[:count], atol=1e-6)


def test_a_predictor_runs_a_fixed_batch_in_padded_pieces(affine, runtime):
    predict = predictor(
        affine("a.onnx", WEIGHT, BIAS, batch=3), deployment=Deployment(runtime=runtime)
    )
    for count in (1, 3, 7):
        found = predict(torch.from_numpy(INPUTS[:count]))
        np.testing.assert_allclose(found.numpy(), EXPECTED[:count], atol=1e-6)


def test_a_predictor_has_one_input(subtraction):
    with pytest.raises(MeasureError, match="takes 2 inputs \\(x, k\\)"):
        predictor(subtraction, deployment=Deployment())


def test_a_damaged_file_is_named(tmp_path, square, runtime):
    path = tmp_path / "damaged.onnx"
    path.write_bytes(square(32).read_bytes()[:-700])
    with pytest.raises(MeasureError, match=f"{runtime} cannot load .*damaged.onnx") as caught:
        open_session(path, runtime=runtime)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_runtime_are_named(tmp_path, square):
    with pytest.raises(MeasureError, match=r"none\.onnx does not exist"):
        open_session(tmp_path / "none.onnx")
    with pytest.raises(MeasureError, match="no runtime 'abacus': choose one of onnxruntime, open"):
        open_session(square(4), runtime="abacus")
    with pytest.raises(MeasureError, match="0 threads"):
        open_session(square(4), threads=0)


def test_a_runtime_that_is_not_installed_says_how_to_get_it(square, monkeypatch):
    monkeypatch.setattr(type(RUNTIMES["openvino"]), "package", "no_such_package")
    assert "openvino" not in installed()
    with pytest.raises(MeasureError) as caught:
        open_session(square(4), runtime="openvino")
    expected = "runtime 'openvino' is not installed: pip install tersenet[openvino]"
    assert str(caught.value) == expected


def test_wrong_inputs_are_named(affine, subtraction, runtime):
    session = open_session(affine("a.onnx", WEIGHT, BIAS), runtime=runtime)
    with pytest.raises(MeasureError, match=r"a.onnx does not run on .* with x \[2, 5\]"):
        session(np.zeros((2, 5), np.float32))
    with pytest.raises(MeasureError, match="takes the inputs x, not z"):
        session({"z": INPUTS})
    with pytest.raises(MeasureError, match="takes 2 inputs \\(x, k\\), not 1"):
        open_session(subtraction, runtime=runtime)(INPUTS)


def test_a_fixed_batch_cannot_be_measured_at_another(square, runtime):
    session = open_session(square(4, batch=2), runtime=runtime)
    assert session.random_feeds(batch=2)["x"].shape == (2, 4)
    with pytest.raises(MeasureError, match="batch fixed at 2: measure it at that batch, not 8"):
        session.random_feeds(batch=8)
