"""Parity holds for what was exported, and a damaged file is told layer by layer."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import ParityError
from tersenet.export import (
    Parity,
    check_parity,
    compare_layers,
    kernels,
    to_onnx,
)
from tersenet.export.onnx_file import convert
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.measure import open_session
from tersenet.models import resnet
from tersenet.quantize import Static

IMAGES = torch.randn(512, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def _predict(path: Path) -> Callable[[Tensor], Tensor]:
    session = open_session(path)
    return lambda x: torch.from_numpy(session(x.numpy())[0])


def _damage(path: Path, damaged: Path, shape: tuple[int, ...], nth: int) -> None:
    """Turns the nth weight of this shape around."""
    proto = onnx.load(str(path))
    found = [one for one in proto.graph.initializer if tuple(one.dims) == shape]
    array = numpy_helper.to_array(found[nth])[::-1].copy()
    found[nth].CopyFrom(numpy_helper.from_array(array, found[nth].name))
    damaged.write_bytes(proto.SerializeToString())


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet(depth=8, in_channels=1, width=8).eval()


@pytest.fixture(scope="module")
def file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parity") / "network.onnx"
    to_onnx(network, (IMAGES[:1],), path)
    return path


def test_float_file_agrees(network: nn.Module, file: Path) -> None:
    parity = check_parity(network, file, IMAGES, predict=_predict(file), kind="float")
    assert parity.samples == 512
    assert parity.max_difference <= 1e-5
    assert parity.agreement == 1
    assert parity.holds
    assert compare_layers(network, file, IMAGES[:64], kind="float").first is None


@pytest.mark.parametrize(
    ("shape", "nth", "layer"),
    [
        ((8, 1, 3, 3), 0, "conv1"),
        ((8, 8, 3, 3), 1, "stage1.0.conv2"),
        ((16, 8, 1, 1), 0, "stage2.0.shortcut.0"),
        ((10, 32), 0, "linear"),
    ],
)
def test_damaged_layer_is_named(
    network: nn.Module, file: Path, tmp_path: Path, shape: tuple[int, ...], nth: int, layer: str
) -> None:
    damaged = tmp_path / "damaged.onnx"
    _damage(file, damaged, shape, nth)
    text = rf"1e-4 is allowed; the first layer that .* is {layer}, by [0-9.]+ of its largest"
    with pytest.raises(ParityError, match=text):
        check_parity(network, damaged, IMAGES, predict=_predict(damaged), kind="float")


def test_file_of_another_network(network: nn.Module, file: Path, tmp_path: Path) -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    with pytest.raises(ParityError, match="is not the file of this network"):
        check_parity(network, _written(other, tmp_path), IMAGES, predict=other, kind="float")
    fewer = nn.Sequential(nn.Flatten(), nn.Linear(256, 9))
    with pytest.raises(ParityError, match=r"returns \[512, 9\] where the network returns"):
        check_parity(network, file, IMAGES, predict=fewer, kind="float")


def _written(model: nn.Module, folder: Path) -> Path:
    to_onnx(model, (IMAGES[:2],), folder / "other.onnx")
    return folder / "other.onnx"


def test_nan_agrees_with_nothing(network: nn.Module, file: Path) -> None:
    predict = _predict(file)
    with pytest.raises(ParityError, match="every layer by itself is within one level"):
        check_parity(
            network, file, IMAGES, predict=lambda x: predict(x) * float("nan"), kind="int8"
        )


class _Levels(nn.Module):
    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


class _Layer(nn.Module):
    """A linear layer on levels, written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = _Levels(
            # Of 7 bits, so that a pair of products fits 16 on any processor.
            levels=torch.randint(-63, 64, (32, 32), dtype=torch.int8),
            scale=torch.tensor(0.002),
        )
        self.output = _Levels(
            scale=torch.tensor(0.02), zero_point=torch.tensor(128, dtype=torch.uint8)
        )

    def forward(self, x: Tensor) -> Tensor:
        weight: Any = self.weight
        output: Any = self.output
        y = x @ DEQUANTIZE(weight.levels, weight.scale, None, 0).T
        levels = QUANTIZE(y, output.scale, output.zero_point, 0, 255)
        return DEQUANTIZE(levels, output.scale, output.zero_point, 0)


def test_damaged_integer_layer_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(_Layer(), _Layer(), _Layer())
    x = torch.randn(512, 32)
    path, damaged = tmp_path / "network.onnx", tmp_path / "damaged.onnx"
    to_onnx(model, (x,), path)
    assert check_parity(model, path, x, predict=_predict(path), kind="int8").agreement == 1
    _damage(path, damaged, (32, 32), 1)
    with pytest.raises(ParityError, match=r"first layer that by itself .* is 1, by \d+ levels"):
        check_parity(model, damaged, x, predict=_predict(damaged), kind="int8")


@pytest.fixture(scope="module")
def quantised(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A residual network in integers, its file, and what was written."""
    subject = Subject(
        model=network,
        example=(IMAGES[:1],),
        calibration=[(IMAGES[:128], torch.zeros(128))],
    )
    settings = Static(reduce_range=True)  # exact on any processor
    plan = settings.plan(subject, Workbench())
    graph, _ = settings.apply(copy.deepcopy(network), plan, subject, Workbench())
    path = tmp_path_factory.mktemp("quantised") / "int8.onnx"
    return graph, path, to_onnx(graph, subject.example, path)


def _thorough(quantised: Any, path: Path, **options: Any) -> Parity:
    graph, _, converted = quantised
    return check_parity(
        graph,
        path,
        IMAGES,
        predict=_predict(path),
        kind="int8",
        thorough=True,
        converted=converted,
        **options,
    )


def test_every_layer_is_within_one_level(quantised: Any) -> None:
    graph, path, _ = quantised
    layers = _thorough(quantised, path).layers
    assert layers is not None
    values = {node.args[0] for node in graph.graph.nodes if node.target is QUANTIZE}
    assert layers.values == len(values) + 1  # and the output
    assert (layers.samples, layers.loud) == (512, 64)
    assert layers.levels <= 1
    bounded = _thorough(quantised, path, seconds=0.0).layers
    assert bounded is not None
    assert (bounded.samples, bounded.loud) == (64, 8)


@pytest.mark.parametrize("layer", ["stage1.0.conv2", "stage2.0.shortcut.0", "stage3.0.conv1"])
def test_damage_that_moves_no_answer_is_told(quantised: Any, tmp_path: Path, layer: str) -> None:
    """One weight of one filter, and some levels of its outputs: answers stay as they are."""
    graph, path, converted = quantised
    proto = onnx.load(str(path))
    weight = graph.get_submodule(f"{layer}.weight").levels.numpy()
    (found,) = (
        one
        for one in proto.graph.initializer
        if tuple(one.dims) == weight.shape and np.array_equal(numpy_helper.to_array(one), weight)
    )
    array = weight.copy()
    largest = np.unravel_index(np.abs(array).argmax(), array.shape)
    array[largest] = -array[largest] // 2
    found.CopyFrom(numpy_helper.from_array(array, found.name))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(proto.SerializeToString())

    def same(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return graph(x)

    text = rf"layers differ, though the answers are .*; the first .* is {layer}, by \d+ levels"
    with pytest.raises(ParityError, match=text):
        check_parity(
            graph,
            damaged,
            IMAGES,
            predict=same,
            kind="int8",
            thorough=True,
            converted=converted,
        )


def test_what_only_saturates_is_told(quantised: Any, tmp_path: Path) -> None:
    """A kernel that stops short of the last levels, which usual inputs never reach."""
    _, path, _ = quantised
    proto = onnx.load(str(path))
    quantise = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    whole = quantise.output[0]
    clip = onnx.helper.make_node("Clip", [f"{whole}.whole", "least", "most"], [whole])
    quantise.output[0] = f"{whole}.whole"
    # Calibration was on some of these images: their range ends at 0 and 255.
    for name, level in (("least", 0), ("most", 250)):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(level, np.uint8), name))
    proto.graph.node.insert(list(proto.graph.node).index(quantise) + 1, clip)
    short = tmp_path / "short.onnx"
    short.write_bytes(proto.SerializeToString())
    graph, _, converted = quantised
    calm = 0.5 * IMAGES[:64]
    with torch.inference_mode():
        assert torch.equal(_predict(short)(calm), _predict(path)(calm))
    layers = compare_layers(graph, short, calm, kind="int8", converted=converted)
    assert layers.first == ("input", "5 levels")


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_left_in_float_is_not_quantised_by_the_runtime(bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.Conv2d(6, 6, 3, groups=2, bias=bias),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, bias=bias),
        nn.Flatten(),
        nn.Linear(4 * 169, 5, bias=bias),
        nn.Linear(5, 3),
    ).eval()
    with torch.no_grad():
        model.get_parameter("1.weight")[0] *= 200  # on one grid for all, the rest would be lost
    subject = Subject(
        model=model, example=(IMAGES[:2],), calibration=[(IMAGES[:64], torch.zeros(64))]
    )
    settings = Static(reduce_range=True, only=("0", "6"))
    plan = settings.plan(subject, Workbench())
    graph, _ = settings.apply(copy.deepcopy(model), plan, subject, Workbench())
    path = tmp_path / "partly.onnx"
    converted = to_onnx(graph, subject.example, path)
    counts = kernels(path).counts
    assert counts["QLinearConv"] == 1
    assert counts.get("Conv", 0) + counts.get("FusedConv", 0) == 1
    assert counts["ConvTranspose"] == 1
    layers = compare_layers(graph, path, IMAGES[:64], kind="int8", converted=converted)
    assert layers.first is None


def test_macs_by_kernel(network: nn.Module, file: Path) -> None:
    found = kernels(file)
    # Stem 16x16x8x9; stages at 16, 8 and 4 pixels: 3x3 kernels and 1x1 projections; linear.
    due = 256 * 8 * 9 + 256 * 2 * 8 * 8 * 9
    due += 64 * (8 * 16 * 9 + 16 * 16 * 9 + 8 * 16) + 16 * (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32)
    assert found.macs == due + 320
    assert found.int8_macs == 0
    assert found.int8_share == 0


def test_origin_of_names_is_complete(network: nn.Module) -> None:
    converted = convert(network, (IMAGES[:2],))
    names = {node.name for node in converted.program.graph.nodes}
    values = [name for node in converted.proto.graph.node for name in node.output]
    known = [name for name in values if converted.origin[name] in names]
    assert len(known) >= len(values) - 1  # the output is renamed
    assert np.unique(values).size == len(values)
