"""Rows 34 to 42: fewer bits."""

import copy
import math
import time
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tersenet.core.files import load_weights
from tersenet.core.types import Subject, Workbench
from tersenet.data import TrainingStream, fashion_mnist
from tersenet.errors import StructureError
from tersenet.export import kernels, to_onnx
from tersenet.measure import open_session
from tersenet.models import resnet
from tersenet.quantize.grids import linear
from tersenet.train import TopOne
from tersenet.train.loop import TrainingOptions, fit

WEIGHTS = Path(__file__).parents[2] / "weights" / "resnet20-fashion-mnist.safetensors"


def test_row_34_post_training(fashion_folder: Path) -> None:
    """Post-training quantisation, symmetric and asymmetric, per tensor and per channel.

    The formulas of the third deck, and what 8 bits cost. Levels per unit are (2^n - 1)/(max - min),
    (2^n - 1)/2/max|x| and (2^(n-1) - 1)/max|x|; zero is a level; values in range return within
    half a step; each channel has its own range. The shipped network with integer weights and
    activations is within 0.5 points of itself on 2,000 test images.
    """
    x = torch.randn(6, 50) * torch.tensor([0.1, 1.0, 3.0, 0.01, 10.0, 0.5])[:, None]
    for bits in (8, 4):
        low, high, peak = x.min(), x.max(), x.abs().max()
        # numpy's division in double precision is the reference.
        expected = {
            "asymmetric": (2**bits - 1) / (high.item() - low.item()),
            "full": (2**bits - 1) / 2 / peak.item(),
            "restricted": (2 ** (bits - 1) - 1) / peak.item(),
        }
        grids = {
            "asymmetric": linear.asymmetric(low, high, bits=bits),
            "full": linear.symmetric(peak, bits=bits, mode="full"),
            "restricted": linear.symmetric(peak, bits=bits, mode="restricted"),
        }
        for name, grid in grids.items():
            assert grid.levels_per_unit.item() == pytest.approx(expected[name], rel=1e-6)
            step = 1 / expected[name]
            inside = x.clamp(*(end.item() for end in grid.ends))
            returned = linear.dequantize(linear.quantize(x, grid), grid)
            assert (returned - inside).abs().max().item() <= step / 2 * (1 + 1e-4)
            zero = torch.zeros(1)
            assert torch.equal(linear.dequantize(linear.quantize(zero, grid), grid), zero)
    each = linear.symmetric(x.abs().amax(1))
    assert torch.allclose(each.levels_per_unit, 127 / x.abs().amax(1))
    whole = linear.symmetric(x.abs().max())

    def error(grid: linear.Grid) -> torch.Tensor:
        return (linear.dequantize(linear.quantize(x, grid), grid) - x).square().mean(1)

    assert (error(each)[:4] < error(whole)[:4]).all()

    model = resnet(in_channels=1)
    load_weights(model, WEIGHTS)
    model.eval()
    calibration = list(fashion_mnist.load("train", fashion_folder).head(256).batches(64))
    example = (calibration[0][0][:2],)
    subject = Subject(model=model, example=example, calibration=calibration)
    static, bench = import_module("tersenet.quantize").Static(), Workbench()
    coded, edits = static.apply(copy.deepcopy(model), static.plan(subject, bench), subject, bench)
    assert len(edits) >= len([m for m in model.modules() if isinstance(m, nn.Conv2d)])
    score = TopOne(fashion_mnist.load("test", fashion_folder).head(2000))
    drop = score(coded).drop_from(score(model))[0]
    assert abs(drop) <= 0.5


def test_row_35_statistics(tmp_path: Path) -> None:
    """Activation statistics as YAML, and the quantiser's parameters from them.

    The deck's largest activation gives its printed 34.659176 levels per unit; b is the mean
    distance from the mean; what is written reads back, and decides ranges without data.
    """
    quantize = import_module("tersenet.quantize")
    x = torch.randn(64, 8)
    found = quantize.Statistics.of(x)
    assert found.b == pytest.approx((x - x.mean()).abs().mean().item())
    assert found.std == pytest.approx(x.std().item())
    assert found.avg_max == pytest.approx(x.amax(1).mean().item())
    assert found.avg_min == pytest.approx(x.amin(1).mean().item())
    grid = linear.asymmetric(torch.tensor(0.0), torch.tensor(7.357358932495117))
    assert grid.levels_per_unit.item() == pytest.approx(34.659176)
    assert grid.zero_point.item() == 0

    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    subject = Subject(model=model, example=(x[:2],), calibration=[(x, torch.zeros(64))])
    stats = quantize.collect_statistics(model, subject.example, subject.calibration)
    assert stats["input"] == found
    file = tmp_path / "stats.yaml"
    quantize.write_statistics(stats, file)
    assert quantize.read_statistics(file) == stats
    told = quantize.Static(statistics=file)
    without = Subject(model=model, example=(x[:2],))
    seen = quantize.Static().plan(subject, Workbench())
    assert told.plan(without, Workbench()).values == seen.values


def test_row_36_overrides() -> None:
    """Bits, modes, a statistics file and overrides in one call.

    The third deck's call works under our names; of two patterns that match a layer the first
    decides, and one that matches none is an error.
    """
    quantize = import_module("tersenet.quantize")
    static = quantize.Static(
        bits=8,
        activation_bits=8,
        mode="restricted",
        activation_mode="asymmetric",
        overrides=[quantize.Override("2", bits=4), quantize.Override("re:.*", bits=6)],
    )
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(32, 4)
    subject = Subject(model=model, example=(x[:2],), calibration=[(x, torch.zeros(32))])
    plan = static.plan(subject, Workbench())
    assert [(one.site, one.scheme.bits) for one in plan.weights] == [("0", 6), ("2", 4)]
    with pytest.raises(StructureError, match=r"'conv\.\*' in overrides of .* matches none"):
        quantize.Static(overrides=[quantize.Override("conv.*", bits=4)]).plan(subject, Workbench())


def test_row_37_clipping() -> None:
    """Clipping by average, deviations and ACIQ, and bias correction.

    On heavy-tailed values at 4 bits, the squared error is at most min-max's; the corrected
    layer's mean output is that of the original.
    """
    quantize = import_module("tersenet.quantize")
    torch.manual_seed(0)
    x = torch.distributions.Laplace(0.0, 1.0).sample((1000, 100))

    def error(bound: float) -> float:
        grid = linear.symmetric(torch.tensor(bound), bits=4)
        return (linear.dequantize(linear.quantize(x, grid), grid) - x).square().mean().item()

    plain = error(x.abs().max().item())
    scheme = quantize.Scheme(bits=4, per="tensor")
    for name in ("average", "deviations", "aciq"):
        clip = quantize.RANGES[name]()
        seen = clip.observer()
        seen.observe(x)
        low, high = clip.ends(seen, scheme)
        assert error(max(-low, high)) < plain, name
    # The paper's multiples of b for 2, 3 and 4 bits.
    found = [quantize.aciq_bound(1.0, bits=bits) for bits in (2, 3, 4)]
    assert found == pytest.approx([2.83, 3.89, 5.03], abs=0.01)

    inputs = torch.rand(500, 8)
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    subject = Subject(model=model, example=(inputs[:2],), calibration=[(inputs, inputs[:, 0])])
    gaps = []
    for correction in ("none", "empirical", "analytic"):
        static = quantize.Static(bits=3, bias_correction=correction, reduce_range=False)
        plan = static.plan(subject, Workbench())
        graph, _ = static.apply(copy.deepcopy(model), plan, subject, Workbench())
        with torch.inference_mode():
            gaps.append((graph(inputs) - model(inputs)).mean(0).abs().max().item())
    # Biases are integers: half a unit of (input scale * weight scale) is left. What the input's
    # own rounding moves is all that the analytic form does not see.
    assert gaps[1] < 3e-4 < 3e-3 < gaps[0]
    assert gaps[2] < 1e-3


def test_row_38_integer_execution() -> None:
    """Execution in integers.

    Products of bytes summed in 32 bits give what the simulation gives, within one level; the
    file runs on the runtime's integer kernels, timed.
    """
    quantize = import_module("tersenet.quantize")
    torch.manual_seed(0)
    x, weight = torch.randn(16, 32), torch.randn(8, 32)
    levels = quantize.integer_linear(x, weight)
    simulated = quantize.integer_linear(x, weight, simulate=True)
    assert levels.unique().numel() > 50
    assert (levels.int() - simulated.int()).abs().max() <= 1
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4)).eval()
    images = torch.randn(64, 1, 8, 8)
    subject = Subject(model=model, example=(images[:2],), calibration=[(images, images)])
    static = quantize.Static(reduce_range=True)  # exact on any processor
    graph, _ = static.apply(model, static.plan(subject, Workbench()), subject, Workbench())
    with TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        to_onnx(graph, subject.example, path)
        assert kernels(path).int8_share == 1
        session = open_session(path)
        (found,) = session(images.numpy())
        started = time.perf_counter()
        session(images.numpy())
        assert time.perf_counter() > started
    with torch.inference_mode():
        due = graph(images)
    # Levels of the convolution may differ by one at ties: a step, times a row of weights.
    assert np.abs(found - due.numpy()).max() <= 0.02 * due.abs().max()


class _Normed(nn.Module):
    """Two convolutions with batch norms, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        self.head = nn.Linear(16 * 49, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).flatten(1))


def test_row_39_aware_training(fashion_folder: Path) -> None:
    """Quantisation-aware training.

    Straight-through gradients, averaged ranges and folded batch norms, all weights and
    activations of so few bits: at 2 bits at least 20 points above plain post-training
    quantisation (one range for a tensor, from least to largest, nearest level, as the third deck
    has it), at 3 bits at least 2, on 2,000 test images. A range for each channel alone brings
    most of that at 3 bits: there float is less than 2 points away.
    """
    quantize = import_module("tersenet.quantize")
    images = fashion_mnist.load("train", fashion_folder)
    stream = TrainingStream(images=images, batch_size=64, seed=0)

    def loss(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(net(x), y)

    options = TrainingOptions(epochs=200 / stream.steps_per_epoch, learning_rate=0.05)
    model = fit(_Normed(), stream, loss, options).eval()
    batches = list(images.head(256).batches(128))
    subject = Subject(
        model=model,
        example=(batches[0][0][:2],),
        calibration=batches,
        original=copy.deepcopy(model),
        training=stream,
    )
    quality = TopOne(fashion_mnist.load("test", fashion_folder).head(2000))

    def top_one(method: Any) -> float:
        plan = method.plan(subject, Workbench())
        graph, _ = method.apply(copy.deepcopy(model), plan, subject, Workbench())
        return 100 * quality(graph).value

    for bits, points in ((2, 20), (3, 2)):
        post = top_one(quantize.Static(bits=bits, activation_bits=bits, per="tensor"))
        every = {"*": quantize.Bits(weight=bits, activation=bits)}
        aware = top_one(quantize.Aware(activations="ema", epochs=options.epochs, overrides=every))
        assert aware - post >= points, (bits, aware, post)


def test_row_40_dorefa_pact_wrpn() -> None:
    """DoReFa, PACT and WRPN.

    Each quantiser is its paper's function; PACT's clipping value gets a gradient.
    """
    quantize = import_module("tersenet.quantize")
    w = torch.linspace(-2, 2, 41)
    squashed = w.tanh() / (2 * w.tanh().abs().max()) + 0.5
    assert torch.allclose(quantize.dorefa(w, bits=3), 2 * (squashed * 7).round() / 7 - 1)
    assert torch.allclose(quantize.wrpn(w, bits=3), (w.clamp(-1, 1) * 3).round() / 3)
    bound = torch.tensor(1.0, requires_grad=True)
    quantize.pact(w, bound, bits=3).sum().backward()
    assert bound.grad is not None
    assert bound.grad.item() == (w >= 1).sum().item()


def test_row_41_binarisation() -> None:
    """Binary weights.

    XNOR and a count of bits give the product of signs; a weight takes a 32nd of its bytes.
    """
    quantize = import_module("tersenet.quantize")
    left, right = torch.randn(9, 64), torch.randn(64, 5)
    packed = quantize.pack_signs(left)
    assert packed.nbytes * 32 == left.nbytes
    found = quantize.sign_product(packed, quantize.pack_signs(right.T))
    signs = [torch.where(x >= 0, 1.0, -1.0) for x in (left, right)]
    assert torch.equal(torch.as_tensor(found).float(), signs[0] @ signs[1])


def test_row_42_angle_bound() -> None:
    """The angle bound and block fixed point.

    sqrt(2 ln N) of the deck's layer is 5.788; 8 bits turn Gaussian weights by 1 - cos of at
    most 1e-4; a block with a shared exponent errs by at most half a step.
    """
    quantize = import_module("tersenet.quantize")
    assert quantize.angle_bound(3 * 3 * 2048 * 1024) == pytest.approx(5.788, abs=5e-4)
    w = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    block = quantize.block_fixed_point(w, bits=8)
    cosine = block.values @ w / math.sqrt((block.values @ block.values) * (w @ w))
    assert 1 - cosine <= 1e-4
    assert np.abs(block.values - w).max() <= block.step / 2
