"""Few-bit levels take few bits in the file, and still run on integer kernels."""

import copy
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.export import kernels, to_onnx
from tersenet.measure import open_session
from tersenet.quantize import Static, Weights


@pytest.mark.parametrize(
    ("method", "kind", "share"),
    [
        (Static(bits=4), TensorProto.INT4, 1.0),
        (Static(bits=3, mode="asymmetric"), TensorProto.UINT4, 1.0),
        (Static(reduce_range=False), TensorProto.INT8, 1.0),
        (Weights(bits=4, per="group", group=7), TensorProto.INT4, 0.0),
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
