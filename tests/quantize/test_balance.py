"""SmoothQuant: nothing changes but the ranges, and those as the paper's formula says."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.quantize import Static
from tersenet.quantize.graph.balance import balance
from tersenet.quantize.graph.build import prepared, replayed
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.structure import sites_of


class _Block(nn.Module):
    """A transformer block with GELU, and a perceptron with ReLU behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.out = nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.first, self.second = nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        read = self.norm1(x)
        parts = (one(read).unflatten(-1, (2, 8)).transpose(1, 2) for one in (
            self.query, self.key, self.value))  # fmt: skip
        mixed = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return self.second(torch.relu(self.first(x.mean(1))))


@pytest.fixture(scope="module")
def whole() -> Subject:
    torch.manual_seed(0)
    model = _Block().eval()
    with torch.no_grad():
        # Outlier channels, as layer norms of large transformers have them.
        model.norm1.weight[3], model.norm2.weight[7] = 60.0, 80.0
        for one in (model.query, model.key, model.value):
            one.weight[:, 3] /= 60
        model.up.weight[:, 7] /= 80
    batches = [(torch.randn(32, 6, 16), torch.zeros(32)) for _ in range(2)]
    return Subject(model=model, example=(batches[0][0][:2],), calibration=batches)


def test_network_is_kept_and_ranges_meet(whole: Subject) -> None:
    module = prepared(whole.model, whole.example)
    x = torch.cat([inputs for inputs, _ in whole.calibration])
    with torch.no_grad():
        skips = balance(module, whole.calibration, strength=0.5, samples=512)
        assert torch.allclose(module(x), whole.model(x), rtol=1e-4, atol=1e-4)
    told = {one.site: one.reason for one in skips}
    assert told.keys() == {"out", "down", "first"}
    assert "from no layer norm or linear layer" in told["down"]
    own = {one.name: tensor_of(module, one.weight).detach() for one in sites_of(module)[0]}
    gain, shift = module.norm1.weight.detach(), module.norm1.bias.detach()
    with torch.no_grad():
        read = functional.layer_norm(x, (16,), gain, shift).abs().flatten(0, 1).amax(0)
    columns = torch.stack([own[name].abs().amax(0) for name in ("query", "key", "value")]).amax(0)
    # With a = 1/2 both become sqrt(max|X| max|W|).
    assert torch.allclose(read, columns, rtol=1e-4)


def test_eight_bits_lose_less(whole: Subject) -> None:
    x = whole.calibration[0][0]

    def error(strength: float | None) -> float:
        settings = Static(reduce_range=False, balance=strength)
        plan = settings.plan(whole, Workbench())
        graph, edits = settings.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
        again = replayed(_Block().eval(), edits, whole.example)
        again.load_state_dict(graph.state_dict(), strict=True)
        with torch.inference_mode():
            assert torch.equal(again(x), graph(x))
            return float((graph(x) - whole.model(x)).square().mean())

    assert error(0.5) < 0.5 * error(None)
    assert any(
        note.startswith("out not balanced: ")
        for note in Static(balance=0.5).plan(whole, Workbench()).notes
    )


def test_nothing_to_balance(whole: Subject) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 3)).eval()
    x = torch.randn(4, 1, 8, 8)
    own = Subject(model=model, example=(x,), calibration=[(x, torch.zeros(4))])
    with pytest.raises(QuantizeError, match="no linear layer reads what a layer norm"):
        Static(balance=0.5).plan(own, Workbench())
    bare = dataclasses.replace(whole, calibration=())
    with pytest.raises(QuantizeError, match="no calibration data"):
        Static(balance=0.5).plan(bare, Workbench())
