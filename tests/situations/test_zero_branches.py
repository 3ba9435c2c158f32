"""Residual branches whose last batch norm starts at zero, as recipes for ResNets have it."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.export import to_onnx
from tersenet.measure import open_session
from tersenet.quantize import Static

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.zeros(64, dtype=torch.long)


class Residual(nn.Module):
    """A stem, a branch beside it, and a head."""

    def __init__(self, *, gain: float, shift: float) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)
        with torch.no_grad():
            self.norm.weight.fill_(gain)
            self.norm.bias.fill_(shift)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.norm(self.branch(x))).relu().mean((2, 3)))


def _subject(model: nn.Module) -> Subject:
    batches = [(part, TARGETS[:32]) for part in IMAGES.split(32)]
    return Subject(model=model, example=(IMAGES[:2],), calibration=batches)


@pytest.mark.parametrize("rounding", ["nearest", "gptq", "adaround"])
@pytest.mark.parametrize("shift", [0.0, 0.7, -0.7])
def test_a_constant_branch_is_exact_in_eight_bits(rounding: str, shift: float, tmp_path: Path):
    torch.manual_seed(0)
    model = Residual(gain=0, shift=shift).eval()
    subject, method = _subject(model), Static(rounding=rounding)
    plan = method.plan(subject, Workbench())
    assert any(f"was {shift:g} on every calibration sample" in note for note in plan.notes)
    (value,) = (one for one in plan.values if one.low == one.high)
    levels = round(shift / value.scale)
    assert levels * value.scale == pytest.approx(shift, rel=1e-6)
    graph, _ = method.apply(copy.deepcopy(model), plan, subject, Workbench())
    assert not graph.state_dict()["branch.weight.levels"].any()
    with torch.no_grad():
        wanted, found = model(IMAGES), graph(IMAGES)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 0.02
    to_onnx(graph, (IMAGES[:2],), tmp_path / "net.onnx")
    session = open_session(tmp_path / "net.onnx", runtime="onnxruntime")
    deployed = torch.from_numpy(session(IMAGES.numpy())[0].copy())
    torch.testing.assert_close(deployed, found, rtol=1e-4, atol=1e-5)


def test_a_network_that_is_constant_is_still_refused_with_a_remedy_that_helps():
    model = Residual(gain=1, shift=0).eval()
    with torch.no_grad():
        model.stem.weight.zero_()
        model.stem.bias.fill_(-1)
    shaped = nn.Sequential(model, nn.Unflatten(1, (2, 2)), nn.Flatten())
    for network in (model, shaped.eval()):  # a size of the input is nothing of its values
        with pytest.raises(QuantizeError, match=r"stem\.output is 0.*all that the network returns"):
            Static().plan(_subject(network), Workbench())
