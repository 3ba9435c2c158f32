"""A network for audio or text pads along one axis before a layer: one runtime padded otherwise.

OpenVINO took zeros for the level of zero (a speech network's file did not open there at all),
while ONNX Runtime was exact; it alone averaged the last windows of a pool wrongly.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Subject, Workbench
from tersenet.export import to_onnx
from tersenet.measure import installed, open_session
from tersenet.quantize import Static

PADS: dict[str, tuple[Callable[[Tensor, nn.Module], Tensor], int]] = {
    "one axis": (lambda x, conv: conv(functional.pad(x, (0, 0, 2, 2))), 0),
    "uneven": (lambda x, conv: conv(functional.pad(x, (0, 1))), 0),
    "takes and gives": (lambda x, conv: conv(functional.pad(x, (-1, 2))), 1),
    "pad of a pad": (lambda x, conv: conv(functional.pad(functional.pad(x, (1, 1)), (0, 2))), 0),
    "module": (lambda x, conv: conv(nn.ZeroPad2d((0, 0, 1, 0))(x)), 0),
    "clamped afterwards": (lambda x, conv: conv(functional.pad(x, (0, 0, 1, 1)).relu()), 1),
    "a constant": (lambda x, conv: conv(functional.pad(x, (0, 0, 1, 1), value=0.5)), 1),
    "of channels": (lambda x, conv: conv(functional.pad(x[:, :4], (0, 0, 0, 0, 2, 2))), 1),
    "two readers": (
        lambda x, conv: (
            conv(x := functional.pad(x, (0, 0, 2, 0))).mean() + functional.max_pool2d(x, 2)
        ),
        1,
    ),
    "a pool": (lambda x, _: functional.avg_pool2d(functional.pad(x, (0, 0, 1, 1)), 2), 1),
    "counted by a pool": (lambda x, _: functional.avg_pool2d(x, 3, 2, 1), 1),
    "over the end of a pool": (lambda x, _: functional.avg_pool2d(x, 3, 2, ceil_mode=True), 0),
    "counted, over the end": (
        lambda x, _: functional.avg_pool2d(x, 2, 3, 1, ceil_mode=True),
        1,
    ),
    "around": (lambda x, conv: conv(functional.pad(x, (0, 0, 2, 1), mode="circular")), 0),
    "reflected": (lambda x, conv: conv(functional.pad(x, (0, 0, 2, 1), mode="reflect")), 1),
}


class _Padded(nn.Module):
    """Values of both signs, so that zero is not the lowest level; then what pads, and a head."""

    def __init__(self, pad: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.pad = pad
        self.stem, self.conv = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, (3, 2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pad(self.stem(x), self.conv).mean((2, 3)))


def _written(model: nn.Module, x: Tensor, path: Path) -> Tensor:
    """Quantises, writes, and returns what the simulation computes."""
    whole = Subject(model=model.eval(), example=(x[:2],), calibration=[(x, x)])
    method = Static(reduce_range=True)
    graph, _ = method.apply(
        copy.deepcopy(model), method.plan(whole, Workbench()), whole, Workbench()
    )
    to_onnx(graph, whole.example, path)
    with torch.inference_mode():
        return graph(x)


def _agree(path: Path, x: Tensor, due: Tensor) -> None:
    for runtime in installed():
        (found,) = open_session(path, runtime=runtime)(x.numpy())
        difference = (torch.from_numpy(found.copy()) - due).abs().max() / due.abs().max()
        # A tie may go either way: a level of 255. Wrong padding was 0.02 to 2 of the largest.
        assert difference < 0.005, runtime


@pytest.mark.parametrize("name", PADS)
def test_both_runtimes_compute_the_simulation(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 2, 8, 8)
    pad, left = PADS[name]
    path = tmp_path / "padded.onnx"
    _agree(path, x, _written(_Padded(pad), x, path))
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert kinds.count("Pad") == left


def test_before_a_convolution_of_signals(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 1, 40)
    model = nn.Sequential(
        nn.ConstantPad1d((2, 1), 0.0), nn.Conv1d(1, 8, 4), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 40, 3),
    )  # fmt: skip
    path = tmp_path / "signal.onnx"
    _agree(path, x, _written(model, x, path))


def test_in_float_the_convolution_pads_by_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2, 8, 8)
    model, path = _Padded(PADS["one axis"][0]).eval(), tmp_path / "float.onnx"
    to_onnx(model, (x[:2],), path)
    convolutions = [n for n in onnx.load(str(path)).graph.node if n.op_type == "Conv"]
    pads = [list(a.ints) for node in convolutions for a in node.attribute if a.name == "pads"]
    assert pads == [[1, 1, 1, 1], [2, 0, 2, 0]]
    with torch.inference_mode():
        _agree(path, x, model(x))
