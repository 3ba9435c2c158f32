"""Counters, running means and caches that forward() keeps on the module, in eval mode too."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import ExportError
from tersenet.export import check_parity, to_onnx
from tersenet.graph import inspect, prove, remove, trace
from tersenet.measure import open_session
from tersenet.quantize import Static

IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers, with something kept between calls."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.calls, self.seen, self.cache = 0, [], None
        self.register_buffer("counted", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        if self.kind == "number":
            self.calls += 1
        if self.kind == "counter":
            self.counted += 1
        if self.kind == "mean":
            self.mean.mul_(0.9).add_(x.mean((0, 2, 3)))
        if self.kind == "assigned":
            self.mean = 0.9 * self.mean + x.mean((0, 2, 3))
        if self.kind == "cache":
            self.cache = x
            self.seen.append(x.shape[0])
        if self.kind == "used":
            self.mean.mul_(0.9).add_(x.mean((0, 2, 3)))
            x = x - self.mean[:, None, None]
        return self.head(x.mean((2, 3)))


KINDS = ("number", "counter", "mean", "assigned", "cache")


@pytest.mark.parametrize("kind", KINDS)
def test_reading_pruning_and_proving_count_no_call(kind: str):
    torch.manual_seed(0)
    model = Net(kind).eval()
    before = copy.deepcopy(model)
    assert inspect(model, (IMAGES[:2],)).groups
    graph = trace(model, (IMAGES[:2],))
    smaller, edits = remove(copy.deepcopy(model), graph, {"conv": (0, 1, 5)})
    assert prove(model, smaller, edits, (IMAGES[:2],)).holds
    assert (model.calls, model.seen, model.cache) == (0, [], None)
    for name, one in model.state_dict().items():
        assert torch.equal(one, before.state_dict()[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_quantised_file_goes_without(kind: str, tmp_path: Path):
    """`self.calls += 1` ended in: ValueError: too many values to unpack."""
    torch.manual_seed(0)
    model = Net(kind).eval()
    targets = torch.zeros(32, dtype=torch.long)
    subject = Subject(model=model, example=(IMAGES[:2],), calibration=[(IMAGES, targets)])
    method = Static()
    plan = method.plan(subject, Workbench())
    graph, _ = method.apply(copy.deepcopy(model), plan, subject, Workbench())
    for network, kept in ((graph, "int8"), (model, "float")):
        path = tmp_path / f"{kept}.onnx"
        converted = to_onnx(network, (IMAGES[:2],), path)
        session = open_session(path, runtime="onnxruntime")
        check_parity(
            network,
            path,
            IMAGES,
            predict=lambda x, own=session: torch.from_numpy(own(x.numpy())[0].copy()),
            kind=kept,
            thorough=True,
            converted=converted,
        )
    with torch.no_grad():
        wanted, found = Net.forward(copy.deepcopy(model), IMAGES), graph(IMAGES)
        assert torch.equal(graph(IMAGES), found)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 0.02


def test_an_output_that_depends_on_the_last_call_is_refused(tmp_path: Path):
    with pytest.raises(ExportError, match=r"'mean', which forward\(\) changes in eval mode"):
        to_onnx(Net("used").eval(), (IMAGES[:2],), tmp_path / "net.onnx")
    subject = Subject(
        model=Net("used").eval(),
        example=(IMAGES[:2],),
        calibration=[(IMAGES, torch.zeros(32, dtype=torch.long))],
    )
    with pytest.raises(ExportError, match="change it in training alone"):
        Static().plan(subject, Workbench())
