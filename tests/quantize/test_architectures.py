"""Attention, embeddings, recurrence, transposed convolutions: integers, or float and listed."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.export import to_onnx
from tersenet.measure import open_session
from tersenet.quantize import ByGroup, Static, Weights


class _Attention(nn.Module):
    """Tokens looked up, mixed by attention, and classified."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.norm, self.qkv = nn.LayerNorm(16), nn.Linear(16, 48)
        self.out, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        q, k, v = (one.unsqueeze(1) for one in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).squeeze(1))
        return self.head(x.mean(1))


class _Recurrent(nn.Module):
    """A recurrent layer and a linear one that reads its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def _subject(model: nn.Module, x: Tensor) -> Subject:
    return Subject(model=model.eval(), example=(x[:2],), calibration=[(x, torch.zeros(len(x)))])


def _error(own: Subject, method: Static | Weights, folder: Path) -> tuple[float, float]:
    """Of the file from its simulation and of that from the network, relative to the largest."""
    plan = method.plan(own, Workbench())
    graph, _ = method.apply(copy.deepcopy(own.model), plan, own, Workbench())
    to_onnx(graph, own.example, folder / "net.onnx")
    x = own.calibration[0][0]
    session = open_session(folder / "net.onnx")
    with torch.inference_mode():
        ours, real = graph(x), own.model(x)
        file = torch.from_numpy(session(x.numpy())[0])
    largest = real.abs().max()
    return float((file - ours).abs().max() / largest), float((ours - real).abs().max() / largest)


def test_attention_lists_its_products_and_the_table(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = _subject(_Attention(), torch.randint(20, (64, 6)))
    plan = Static(reduce_range=True).plan(own, Workbench())
    assert [one.site for one in plan.weights] == ["qkv", "out", "head"]
    told = {one.site: one.reason for one in plan.skips}
    assert "quantize.weights" in told["table"]
    assert any("product of two activations" in reason for reason in told.values())
    drift, loss = _error(own, Static(reduce_range=True), tmp_path)
    assert drift < 0.02
    assert loss < 0.05


def test_embeddings_are_stored_as_integers_by_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = _subject(_Attention(), torch.randint(20, (64, 6)))
    plan = Weights().plan(own, Workbench())
    assert [one.site for one in plan.weights] == ["table", "qkv", "out", "head"]
    drift, loss = _error(own, Weights(), tmp_path)
    # ONNX Runtime multiplies stored weights with activations rounded to 8 bits, unless a session
    # sets session.qdq_matmulnbits_accuracy_level to 0: then the drift is that of float32.
    assert drift < 0.005
    assert loss < 0.03


def test_recurrent_layers_are_listed_and_half_of_the_weights_are_due() -> None:
    torch.manual_seed(0)
    own = _subject(_Recurrent(), torch.randn(32, 5, 8))
    with pytest.raises(QuantizeError, match=r"only .* can be quantised \(lstm: lstm: no runtime"):
        Static().plan(own, Workbench())
    plan = Static(only=("head",)).plan(own, Workbench())
    assert [one.site for one in plan.weights] == ["head"]
    assert "no runtime here" in plan.skips[0].reason


def test_transposed_convolutions_compute_what_is_simulated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 64, 3),
    )  # fmt: skip
    own = _subject(model, torch.randn(32, 1, 8, 8))
    plan = Static(reduce_range=True).plan(own, Workbench())
    assert [one.site for one in plan.weights] == ["0", "2", "5"]
    drift, loss = _error(own, Static(reduce_range=True), tmp_path)
    assert drift < 0.02
    assert loss < 0.05


def test_groups_that_openvino_cannot_load_are_refused() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(20, 6)).eval(), torch.randn(8, 20)
    own = Subject(model=model, example=(x,), deployment=Deployment(runtime="openvino"))
    with pytest.raises(QuantizeError, match="0 has 20 weights a channel in groups of 8"):
        Weights(bits=4, per=ByGroup(size=8)).plan(own, Workbench())
    assert Weights(bits=4, per=ByGroup(size=10)).plan(own, Workbench()).share == 1
