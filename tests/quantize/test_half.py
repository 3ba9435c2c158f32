"""Half precision: the numbers that PyTorch rounds to, half the bytes, and an exact reload."""

import copy
import dataclasses
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import QuantizeError, StructureError
from tersenet.export import check_parity, to_onnx
from tersenet.measure import open_session
from tersenet.quantize import Half

KINDS = {"fp16": torch.float16, "bf16": torch.bfloat16}


class _Net(nn.Module):
    """A convolution, a matrix of more than the exporter folds, and one that it folds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.deep = nn.Linear(16 * 36, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).flatten(1)
        return self.head(torch.relu(self.deep(x)))


@pytest.fixture(scope="module")
def whole() -> Subject:
    torch.manual_seed(0)
    return Subject(model=_Net().eval(), example=(torch.randn(2, 1, 8, 8),))


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_weights_are_rounded_as_pytorch_rounds_and_take_half(
    whole: Subject, tmp_path: Path, kind: str
) -> None:
    method = Half(dtype=kind)  # type: ignore[arg-type]
    plan = method.plan(whole, Workbench())
    assert plan.share == 1
    graph, edits = method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    x = torch.randn(512, 1, 8, 8)
    due = copy.deepcopy(whole.model)
    with torch.no_grad():
        scale = torch.rsqrt(due.norm.running_var.double() + due.norm.eps)
        folded = (due.conv.weight.double() * scale.view(-1, 1, 1, 1)).float()
        due.norm = nn.Identity()
        due.conv.weight.copy_(folded)
        for one in (due.conv, due.deep, due.head):
            one.weight.copy_(one.weight.to(KINDS[kind]))
        assert torch.allclose(graph(x), due(x), atol=1e-6)
    floats, halves = tmp_path / "float.onnx", tmp_path / "half.onnx"
    to_onnx(whole.model, whole.example, floats)
    to_onnx(graph, whole.example, halves)
    assert halves.stat().st_size < 0.52 * floats.stat().st_size
    tensors = [one for one in onnx.load(str(halves)).graph.initializer if len(one.dims) > 1]
    # The exporter folds small casts; of those, bf16 values that fp16 holds are stored as fp16.
    wide = max(tensors, key=lambda one: len(one.raw_data))
    assert wide.data_type == (TensorProto.FLOAT16 if kind == "fp16" else TensorProto.BFLOAT16)
    assert {one.data_type for one in tensors} <= {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    for runtime in ("onnxruntime", "openvino"):
        if runtime == "openvino":
            pytest.importorskip("openvino")
        session = open_session(halves, runtime=runtime)
        parity = check_parity(
            graph,
            halves,
            x,
            predict=lambda part, own=session: torch.from_numpy(own(part.numpy())[0].copy()),
            kind="float",
        )
        assert parity.agreement == 1
    again = method.replay(_Net().eval(), edits, whole.example)
    again.load_state_dict(graph.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again(x), graph(x))


def test_what_fp16_does_not_hold_stays_and_is_listed(whole: Subject) -> None:
    model = copy.deepcopy(whole.model)
    with torch.no_grad():
        model.head.weight[0, 0] = 1e6
    loud = dataclasses.replace(whole, model=model)
    plan = Half().plan(loud, Workbench())
    assert [(one.site, one.reason) for one in plan.skips] == [
        ("head.weight", "reaches beyond what fp16 holds: try bf16")
    ]
    assert not Half(dtype="bf16").plan(loud, Workbench()).skips
    with torch.no_grad():
        model.deep.weight[0, 0] = 1e6
    with pytest.raises(QuantizeError, match=r"only .* of the weights can be stored as fp16"):
        Half().plan(loud, Workbench())
    with torch.no_grad():
        model.deep.weight[0, 0] = float("nan")
    with pytest.raises(QuantizeError, match=r"deep\.weight is NaN"):
        Half(dtype="bf16").plan(loud, Workbench())


def test_patterns_and_plans_of_another_network(whole: Subject) -> None:
    assert Half(skip=("deep.*",)).plan(whole, Workbench()).share < 0.5
    with pytest.raises(StructureError, match="'depp' in skip of quantize half matches none of"):
        Half(skip=("depp",)).plan(whole, Workbench())
    plan = Half().plan(whole, Workbench())
    with pytest.raises(QuantizeError, match=r"of another network: conv\.weight"):
        Half().apply(nn.Sequential(nn.Conv2d(1, 2, 3)), plan, whole, Workbench())
