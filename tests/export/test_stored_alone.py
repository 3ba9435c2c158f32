"""Weights that are stored alone: folded when a file is loaded, and what the simulation computes."""

import copy
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.export import kernels, to_onnx
from tersenet.measure import predictor
from tersenet.quantize import ByGroup, Static, Weights

SCHEMES: dict[str, dict[str, Any]] = {
    "by channel": {},
    "by tensor": {"per": "tensor"},
    "by group": {"per": ByGroup(size=16)},
    "by group, the last one short": {"per": ByGroup(size=10)},
    "in 4 bits": {"bits": 4},
    "from the least value": {"mode": "asymmetric"},
    "from the least value by group": {"mode": "asymmetric", "per": ByGroup(size=16)},
}


class _Net(nn.Module):
    """A convolution, a grouped one, maybe a transposed one, a linear layer on two dimensions."""

    def __init__(self, *, transposed: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, groups=2)
        self.up = nn.ConvTranspose2d(16, 12, 3, stride=2) if transposed else nn.Conv2d(16, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        return self.head(torch.relu(self.up(x)).mean((2, 3)))


class _Tokens(nn.Module):
    """Linear layers on three dimensions, which are MatMul in a file."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(torch.relu(self.wide(x)))


def _stored(
    model: nn.Module, x: Tensor, settings: dict[str, Any], path: Path
) -> tuple[nn.Module, Subject]:
    subject = Subject(model=model.eval(), example=(x[:2],), calibration=[(x, torch.zeros(len(x)))])
    method, bench = Weights(**settings), Workbench()
    plan = method.plan(subject, bench)
    stored, _ = method.apply(copy.deepcopy(model), plan, subject, bench)
    to_onnx(stored, subject.example, path)
    return stored, subject


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_weight_is_made_floats_at_each_inference(
    scheme: str, runtime: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 2, 9, 9)
    net = _Net(transposed="group" not in scheme)
    stored, _ = _stored(net, x, SCHEMES[scheme], tmp_path / "stored.onnx")
    counts = kernels(tmp_path / "stored.onnx").counts
    assert not {"DequantizeLinear", "Cast", "Mul", "Sub", "Gather", "Range", "Div"} & counts.keys()
    with torch.inference_mode():
        expected = stored(x)
    found = predictor(tmp_path / "stored.onnx", deployment=Deployment(runtime=runtime))(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "method", [Weights(per=ByGroup()), Static(per=ByGroup(), reduce_range=False)]
)
def test_a_transposed_convolution_has_no_groups(method: Weights | Static) -> None:
    x = torch.randn(6, 2, 9, 9)
    net = _Net(transposed=True).eval()
    subject = Subject(model=net, example=(x[:2],), calibration=[(x, torch.zeros(6))])
    with pytest.raises(QuantizeError, match=r"up is a transposed convolution.* per: channel"):
        method.plan(subject, Workbench())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_products_of_tokens(scheme: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 7, 32)
    stored, _ = _stored(_Tokens(), x, SCHEMES[scheme], tmp_path / "stored.onnx")
    counts = kernels(tmp_path / "stored.onnx").counts
    assert "DequantizeLinear" not in counts
    with torch.inference_mode():
        expected = stored(x)
    found = predictor(tmp_path / "stored.onnx", deployment=Deployment())(x)
    # ONNX Runtime's own kernels for such weights round what is multiplied to 8 bits.
    close = 0.02 if "MatMulNBits" in counts else 1e-5
    assert float((found - expected).abs().max()) <= close * float(expected.abs().max())


class _Words(nn.Module):
    """A table that is looked up in, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(1))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_the_rows_that_are_looked_up_are_made_floats(
    scheme: str, runtime: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    words = torch.randint(0, 50, (6, 4))
    stored, _ = _stored(_Words(), words, SCHEMES[scheme], tmp_path / "stored.onnx")
    counts = kernels(tmp_path / "stored.onnx").counts
    assert "DequantizeLinear" not in counts
    assert counts["Gather"] >= 1
    with torch.inference_mode():
        expected = stored(words)
    found = predictor(tmp_path / "stored.onnx", deployment=Deployment(runtime=runtime))(words)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_file_holds_levels_and_nothing_of_floats(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 2, 9, 9)
    _stored(_Net(), x, {"per": ByGroup(size=16)}, tmp_path / "stored.onnx")
    proto = onnx.load(str(tmp_path / "stored.onnx"))
    read = {name for node in proto.graph.node for name in node.input}
    assert {one.name for one in proto.graph.initializer} <= read
    weights = {name: one.numel() for name, one in _Net().named_parameters() if one.ndim > 1}
    levels = [one for one in proto.graph.initializer if one.data_type == onnx.TensorProto.INT8]
    assert sum(len(one.raw_data) for one in levels) == sum(weights.values())
    # A scale for each group of 16 weights or fewer, biases, and no index for each weight.
    floats = [one for one in proto.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
    assert sum(len(one.raw_data) // 4 for one in floats) < sum(weights.values()) / 8 + 60
    places = [one for one in proto.graph.initializer if one.data_type == onnx.TensorProto.INT64]
    assert sum(len(one.raw_data) // 8 for one in places) < 40
