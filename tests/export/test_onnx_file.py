"""ONNX files: what is in them, that they compute the same, and what is refused."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from tersenet.errors import ExportError, RunError, StructureError
from tersenet.export import kernels, to_onnx, trace
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.measure import open_session
from tersenet.models import resnet

IMAGES = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet(depth=8, in_channels=1, width=8).eval()


@pytest.fixture(scope="module")
def file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    to_onnx(network, (IMAGES[:1],), path)
    return path


def _run(path: Path, *inputs: Tensor) -> list[Tensor]:
    found = open_session(path)([one.numpy() for one in inputs])
    return [torch.from_numpy(one) for one in found]


@pytest.mark.parametrize("batch", [1, 3])
def test_computes_the_same_at_any_batch(network: nn.Module, file: Path, batch: int) -> None:
    x = IMAGES[:batch]
    (ours,) = _run(file, x)
    with torch.inference_mode():
        assert torch.allclose(ours, network(x), atol=1e-5)


def test_names_and_open_batch(file: Path) -> None:
    graph = onnx.load(str(file)).graph
    for value, name in ((graph.input[0], "input"), (graph.output[0], "output")):
        assert value.name == name
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_holds_little_but_the_weights(network: nn.Module, file: Path) -> None:
    proto = onnx.load(str(file))
    floats = [numpy_helper.to_array(one) for one in proto.graph.initializer]
    # Batch norm is folded: what is left of it is a bias per channel.
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    weights = sum(one.nbytes for one in floats if one.ndim > 1)
    assert weights == 4 * sum(p.numel() for p in network.parameters() if p.ndim > 1)
    assert file.stat().st_size - sum(one.nbytes for one in floats) < 3000
    assert not proto.metadata_props
    assert not any(node.metadata_props or node.name or node.doc_string for node in proto.graph.node)


def test_same_model_same_bytes(network: nn.Module, file: Path, tmp_path: Path) -> None:
    to_onnx(network, (IMAGES,), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == file.read_bytes()


def test_pools_globally_in_one_operator(file: Path) -> None:
    counts = kernels(file).counts
    assert counts["GlobalAveragePool"] == 1
    assert "ReduceMean" not in counts


def test_model_is_untouched_and_nothing_is_said(
    network: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layout = model[0].weight.stride()
    to_onnx(model, (IMAGES,), tmp_path / "network.onnx")
    assert model.training
    assert model[0].weight.stride() == layout
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert capfd.readouterr() == ("", "")


class Two(nn.Module):
    """Two inputs, and a tensor used twice."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Returns a masked copy of the image."""
        return image * mask + mask


def test_several_inputs_are_named_by_forward(tmp_path: Path) -> None:
    path = tmp_path / "two.onnx"
    to_onnx(Two(), (IMAGES, IMAGES), path)
    assert [one.name for one in onnx.load(str(path)).graph.input] == ["image", "mask"]
    (found,) = _run(path, IMAGES, 2 * IMAGES)
    assert torch.allclose(found, IMAGES * 2 * IMAGES + 2 * IMAGES)


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        """Negates an image that is dark on the whole."""
        return -x if x.sum() < 0 else x


class Unwritable(nn.Module):
    """An operator that ONNX has no word for."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns singular values."""
        return torch.linalg.svdvals(x)


def test_not_exportable_names_reason_and_line(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    with pytest.raises(
        StructureError, match=r"cannot be read as a graph \(.*x\.sum\(\) < 0"
    ) as told:
        to_onnx(Branching(), (IMAGES,), path)
    assert "test_onnx_file.py:" in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(ExportError, match="Unwritable cannot be written as ONNX"):
        to_onnx(Unwritable(), (IMAGES,), path)
    assert not list(tmp_path.iterdir())


def test_folder_that_is_missing(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        to_onnx(nn.Linear(28, 2), (IMAGES,), tmp_path / "absent" / "network.onnx")


class Pair(nn.Module):
    """Two outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both signs."""
        return x, -x


def test_trace_is_one_tensor_out() -> None:
    with pytest.raises(ExportError, match="Pair returns 2 tensors where one is due"):
        trace(Pair(), (IMAGES,))


class InPlace(nn.Module):
    """Writes over what it read."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(x) + 1, twice."""
        y = x * 1
        y.relu_()
        y += 1
        return y + y


def test_trace_is_functional_and_independent(network: nn.Module) -> None:
    graph = trace(network, (IMAGES,))
    assert not any(str(node.target).split(".")[0].endswith("_") for node in graph.graph.nodes)
    with torch.no_grad():
        assert torch.equal(graph(IMAGES), network(IMAGES))
        next(graph.parameters()).zero_()
        assert not torch.equal(graph(IMAGES), network(IMAGES))
    assert torch.equal(trace(InPlace(), (IMAGES,))(IMAGES), 2 * (IMAGES.relu() + 1))


class Round(nn.Module):
    """Quantises to n bits and back."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.ends = (low, high)
        self.register_buffer("scale", torch.tensor(0.1))
        self.register_buffer("zero_point", torch.tensor(3, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Returns x to the nearest level."""
        levels = QUANTIZE(x, self.scale, self.zero_point, *self.ends)
        return DEQUANTIZE(levels, self.scale, self.zero_point, 0)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 15)])
def test_quantise_operators_are_those_of_onnx(tmp_path: Path, low: int, high: int) -> None:
    model = Round(low, high)
    # Ties, both ends, far beyond them, and zero.
    ties = (torch.arange(-40, 600) / 2).mul(0.1)
    x = torch.cat([ties, torch.tensor([0.0, -0.0, 1e9, -1e9])]).reshape(2, -1)
    path = tmp_path / "round.onnx"
    to_onnx(model, (x,), path)
    (found,) = _run(path, x)
    assert torch.equal(found, model(x))
    theirs = torch.fake_quantize_per_tensor_affine(x.double(), 0.1, 3, low, high).float()
    assert ((found - theirs).abs() <= 0.1001).all()
    assert found.min() == pytest.approx(0.1 * (low - 3))
    assert found.max() == pytest.approx(0.1 * (high - 3))
