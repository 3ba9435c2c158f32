"""Files to be timed compute what they stand for, and the layers keep their weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tersenet.decompose import TensorTrain, Tucker
from tersenet.measure import open_session
from tersenet.timing.writer import (
    COPIES,
    LayerKind,
    describe_chain,
    write_chain,
    write_layers,
    write_stack,
)

WRAPPED = nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular")
CHAINS = {
    "a wrapped convolution": ([WRAPPED], (6, 5, 7), (8, 5, 7)),
    "Tucker": (
        Tucker().build(nn.Conv2d(6, 8, 3, stride=2, device="meta"), (2, 3)), (6, 5, 7), (8, 2, 3)
    ),
    "a train of shapes alone": (
        TensorTrain().build(nn.Linear(64, 128, device="meta"), (3, 4)), (64,), (128,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_timed_has_the_shapes_of_the_chain(name: str, tmp_path: Path) -> None:
    chain, sample, gives = CHAINS[name]
    before = [(one, one._version) for layer in chain for one in layer.parameters()]
    write_chain(chain, sample, tmp_path / "chain.onnx")
    session = open_session(tmp_path / "chain.onnx")
    (output,) = session.run(session.random_feeds(batch=3))
    assert output.shape == (3, *gives)
    assert all(one._version == version for one, version in before)
    stored = onnx.load(tmp_path / "chain.onnx").graph.initializer
    sizes = {tuple(one.dims) for one in stored}
    for weight in (one for one, _ in before if one.ndim > 2):
        assert tuple(weight.shape) in sizes


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5,), ()])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_probes_run_as_the_chain_they_stand_for(kernel, precision: str, tmp_path):
    positions = (6, 5)[: len(kernel)]
    path = tmp_path / "probe.onnx"
    write_stack(LayerKind(kernel, positions), 8, path, precision=precision)
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    session = open_session(path, runtime="onnxruntime", threads=1)
    x = np.random.default_rng(1).normal(size=(3, 8, *positions)).astype(np.float32)
    (found,) = session({session.inputs[0].name: x})
    expected = torch.tensor(x)
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    for name in sorted(stored.keys() & {f"w{i}" for i in range(9)}):
        weight = torch.tensor(stored[name])
        if kernel:
            layer = (torch.nn.functional.conv1d, torch.nn.functional.conv2d)[len(kernel) - 1]
            expected = layer(expected, weight, padding=kernel[0] // 2).relu()
        else:
            expected = torch.nn.functional.linear(expected, weight).relu()
    if precision == "fp32":
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    else:
        assert {one.op_type for one in model.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
        assert found.shape == x.shape
        # levels of 0.03, and not all in the same end of the range
        assert np.allclose(found / 0.03, np.round(found / 0.03), atol=1e-3)
        assert len(np.unique(found)) > 3


def test_int8_probes_run_on_integer_kernels(tmp_path):
    import onnxruntime

    write_stack(LayerKind((3, 3), (6, 6)), 16, tmp_path / "probe.onnx", precision="int8")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        tmp_path / "probe.onnx", options, providers=["CPUExecutionProvider"]
    )
    kinds = [one.op_type for one in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    assert kinds.count("QLinearConv") == 6
    assert "Conv" not in kinds


@pytest.mark.parametrize(
    ("kind", "reads", "weight"),
    [
        (LayerKind((3, 3), (4, 6)), 3, (5, 3, 3, 3)),
        (LayerKind((3, 3), (5, 5), depthwise=True), 4, (4, 1, 3, 3)),
        (LayerKind((), ()), 2, (7, 2)),
        (LayerKind((), (3,)), 2, (7, 2)),
    ],
)
def test_a_timed_file_holds_equal_layers_on_one_input(
    kind: LayerKind, reads: int, weight: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "layers.onnx"
    write_layers(kind, reads, weight[0], path, precision="fp32")
    session = open_session(path)
    (x,) = session.random_feeds(batch=2).values()
    stored = [numpy_helper.to_array(one) for one in onnx.load(str(path)).graph.initializer]
    assert [one.shape for one in stored] == [weight] * COPIES
    inputs, total = torch.from_numpy(x), 0
    for one in map(torch.tensor, stored):
        if len(weight) == 4:
            total = total + nn.functional.conv2d(inputs, one, padding=1, groups=reads // weight[1])
        else:
            total = total + inputs @ one.T
    np.testing.assert_allclose(session(x)[0], total.numpy(), rtol=1e-4, atol=1e-5)


def test_quantised_layers_run_in_integers(tmp_path: Path) -> None:
    from tersenet.export import kernels

    write_layers(LayerKind((3, 3), (6, 6)), 16, 16, tmp_path / "layers.onnx", precision="int8")
    assert kernels(tmp_path / "layers.onnx").int8_share == 1


def test_what_describes_a_chain_tells_it_from_others() -> None:
    """By all that its time depends on, and by nothing else: two layers of one network are one."""
    chains = [
        [nn.Conv2d(6, 8, 3)],
        [nn.Conv2d(6, 8, 1)],
        [nn.Conv2d(6, 8, 3, stride=2)],
        [nn.Conv2d(6, 8, 3, padding=1)],
        [nn.Conv2d(6, 8, 3, dilation=2)],
        [nn.Conv2d(6, 8, 3, groups=2)],
        [nn.Conv2d(6, 8, 3), nn.Conv2d(8, 8, 1)],
        [nn.Linear(6, 8)],
        TensorTrain().build(nn.Linear(64, 128, device="meta"), (3, 4)),
        TensorTrain().build(nn.Linear(64, 128, device="meta"), (3, 5)),
    ]
    assert len(set(map(describe_chain, chains))) == len(chains)
    assert describe_chain([nn.Conv2d(6, 8, 3)]) == describe_chain(chains[0])
