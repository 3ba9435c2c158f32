"""Few-bit levels take few bits in the file, and still run on integer kernels."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.export import kernels, to_onnx
from tersenet.export.rewrites.packing import drop_clamps_
from tersenet.measure import open_session
from tersenet.quantize import ByGroup, Static, Weights


@pytest.mark.parametrize(
    ("method", "kind", "share"),
    [
        (Static(bits=4), TensorProto.INT4, 1.0),
        (Static(bits=3, mode="asymmetric"), TensorProto.UINT4, 1.0),
        (Static(reduce_range=True), TensorProto.INT8, 1.0),
        (Weights(bits=4, per=ByGroup(size=7)), TensorProto.INT4, 0.0),
    ],
)
def test_levels_are_stored_in_their_bits(
    method: Any, kind: int, share: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    x = torch.randn(32, 3, 8, 8)
    whole = Subject(model=model, example=(x[:2],), calibration=[(x, x)])
    graph, _ = method.apply(
        copy.deepcopy(model), method.plan(whole, Workbench()), whole, Workbench()
    )
    path = tmp_path / "few.onnx"
    to_onnx(graph, whole.example, path)
    stored = [one.data_type for one in onnx.load(str(path)).graph.initializer if len(one.dims) > 1]
    assert stored.count(kind) == 2
    assert kernels(path).int8_share == share
    with torch.inference_mode():
        due = graph(x)
    # OpenVINO 2026 does not read scales for blocks whose last is shorter.
    runtimes = ("onnxruntime", "openvino") if share else ("onnxruntime",)
    for runtime in runtimes:
        (found,) = open_session(path, runtime=runtime)(x.numpy())
        assert (torch.from_numpy(found.copy()) - due).abs().max() < 0.05 * due.abs().max()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("reach", [3.0, 5.9, 6.0, 6.3, 7.0])
def test_a_clamp_goes_exactly_where_levels_do_its_work(bits: int, zero: int, reach: float) -> None:
    """Judged by brute force: its absence shows in no level of a dense grid of inputs."""
    scale = reach / (2**bits - 1 - zero)
    clamped, bare = _clamp_and_levels(scale, zero, bits), _clamp_and_levels(scale, zero, bits)
    bare.graph.node[1].input[0] = "x"
    x = np.linspace(-9, 9, 200_001, dtype=np.float32)
    due, without = (ReferenceEvaluator(one).run(None, {"x": x})[0] for one in (clamped, bare))
    drop_clamps_(clamped)
    kinds = [node.op_type for node in clamped.graph.node]
    assert (kinds[0] == "QuantizeLinear") == np.array_equal(due, without)
    assert np.array_equal(ReferenceEvaluator(clamped).run(None, {"x": x})[0], due)


def _clamp_and_levels(scale: float, zero: int, bits: int) -> onnx.ModelProto:
    """Between 0 and 6, then on levels of so many bits."""
    make = onnx.helper.make_node
    constants = {
        "low": np.float32(0),
        "high": np.float32(6),
        "scale": np.float32(scale),
        "zero": np.uint8(zero),
        "least": np.uint8(0),
        "most": np.uint8(2**bits - 1),
    }
    nodes = [
        make("Clip", ["x", "low", "high"], ["clamped"]),
        make("QuantizeLinear", ["clamped", "scale", "zero"], ["levels"]),
        make("Clip", ["levels", "least", "most"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "clamp",
        [value("x", TensorProto.FLOAT, [None])],
        [value("y", TensorProto.UINT8, [None])],
        [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_few_bits_after_relu6_run_in_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU6(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU6(),
        nn.Conv2d(16, 8, 1),
    ).eval()  # fmt: skip
    x = 4 * torch.randn(32, 3, 8, 8)
    whole = Subject(model=model, example=(x[:2],), calibration=[(x, x)])
    method = Static(bits=4, activation_bits=4)
    graph, _ = method.apply(model, method.plan(whole, Workbench()), whole, Workbench())
    path = tmp_path / "relu6.onnx"
    to_onnx(graph, whole.example, path)
    assert kernels(path).int8_share == 1
    with torch.inference_mode():
        due = graph(x)
    (found,) = open_session(path)(x.numpy())
    assert (torch.from_numpy(found.copy()) - due).abs().max() < 0.05 * due.abs().max()


class _Named(nn.Module):
    """A last layer called as the exporter calls what it returns: `linear`, with `linear.bias`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).relu().mean([2, 3]))


def test_a_last_layer_left_in_float_keeps_its_own_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = _Named().eval(), torch.randn(32, 1, 8, 8)
    whole = Subject(model=model, example=(x[:2],), calibration=[(x, x)])
    method = Static(skip=("linear",), reduce_range=True)
    graph, _ = method.apply(model, method.plan(whole, Workbench()), whole, Workbench())
    path = tmp_path / "named.onnx"
    to_onnx(graph, whole.example, path)
    with torch.inference_mode():
        due = graph(x)
    (found,) = open_session(path)(x.numpy())
    assert (torch.from_numpy(found.copy()) - due).abs().max() < 0.02 * due.abs().max()
