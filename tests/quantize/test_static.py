"""Static int8 on a trained ResNet-8: what is planned, stored, simulated and deployed."""

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import load, numpy_helper
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from tersenet.core.registry import methods
from tersenet.core.types import Device, EditKind, Predict, Subject, Workbench
from tersenet.data.images import Images
from tersenet.errors import QuantizeError, StructureError
from tersenet.export import check_parity, kernels, to_onnx
from tersenet.export.qops import QUANTIZE
from tersenet.export.trace import operand
from tersenet.measure import open_session
from tersenet.models.resnet_cifar import resnet
from tersenet.quantize import QuantizePlan, Range, Static
from tersenet.quantize.ranges import LeastError, Percentile
from tersenet.train.evaluate import TopOne

SITES = 10  # of a ResNet-8: stem, 6 convolutions, 2 projections, linear


def _predict(path: Path, runtime: str = "onnxruntime") -> Predict:
    session = open_session(path, runtime=runtime)
    return lambda x: torch.from_numpy(session(x.numpy())[0].copy())


def _small(*, model: nn.Module | None = None) -> Subject:
    """A network that is traced in a moment: a convolution, batch norm and a linear layer."""
    torch.manual_seed(0)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Conv2d(1, 4, 3, bias=False),
        norm=nn.BatchNorm2d(4),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        head=nn.Linear(4, 3),
    )
    x = torch.randn(64, 1, 8, 8)
    labels = torch.zeros(32, dtype=torch.long)
    batches = [(part, labels) for part in x.split(32)]
    return Subject(
        model=model or nn.Sequential(layers).eval(), example=(x[:1],), calibration=batches
    )


def _changed(subject: Subject, change: Callable[[Any], None]) -> Subject:
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        change(model)
    return dataclasses.replace(subject, model=model)


def test_registered() -> None:
    assert methods("quantize")["static"] is Static


def test_plan_names_every_site_and_value(quantised: Any) -> None:
    plan = quantised.plan
    assert len(plan.weights) == SITES
    assert plan.share == 1
    assert plan.samples == 512
    assert "10 layers with 100.0 % of the weights to int8 per channel" in plan.summary
    by_name = {one.value: one for one in plan.values}
    # After a ReLU zero is the lowest level, so that the runtime can drop the ReLU.
    assert by_name["conv1.output"].zero_point == 0
    assert by_name["stage1.0.conv2.output"].zero_point > 0
    assert {"input", "stage1.0.add.output", "adaptive_avg_pool2d.output"} <= by_name.keys()
    assert "linear.output" not in by_name


def test_ranges_are_those_of_the_float_network(quantised: Any) -> None:
    images = torch.cat([x for x, _ in quantised.subject.calibration])
    model = quantised.subject.model
    with torch.inference_mode():
        stem = torch.relu(model.bn1(model.conv1(images)))
    found = next(one for one in quantised.plan.values if one.value == "conv1.output")
    assert found.low == 0
    assert found.high == pytest.approx(stem.max().item(), rel=1e-5)
    assert found.scale == pytest.approx(found.high / 255, rel=1e-6)


def test_plan_survives_json(quantised: Any) -> None:
    adapter = TypeAdapter(QuantizePlan)
    assert adapter.validate_json(adapter.dump_json(quantised.plan)) == quantised.plan


def test_edits(quantised: Any) -> None:
    assert [edit.site for edit in quantised.edits] == [one.site for one in quantised.plan.weights]
    edit = quantised.edits[0]
    assert (edit.kind, edit.before, edit.after) == (EditKind.ENCODE, "fp32", "int8 per channel")
    assert edit.real


def test_integers_are_stored(quantised: Any) -> None:
    state = quantised.graph.state_dict()
    assert state["conv1.weight.levels"].dtype == torch.int8
    assert state["conv1.bias.levels"].dtype == torch.int32
    levels = sum(v.numel() for n, v in state.items() if n.endswith(".weight.levels"))
    assert levels == sum(p.numel() for p in quantised.subject.model.parameters() if p.ndim > 1)
    assert torch.allclose(
        state["conv1.bias.scale"], state["conv1.weight.scale"] * state["input.scale"]
    )
    stored = {one.name: one for one in load(str(quantised.path)).graph.initializer}
    kinds = [numpy_helper.to_array(one).dtype for one in stored.values()]
    assert sum(kind == np.int8 for kind in kinds) >= SITES
    assert not any(
        numpy_helper.to_array(one).dtype == np.float32 and len(one.dims) > 1
        for one in stored.values()
    )


def test_replay_and_loading_give_the_same_bits(quantised: Any) -> None:
    torch.manual_seed(7)
    fresh = resnet(depth=8, in_channels=1, width=8)
    rebuilt = Static(reduce_range=False).replay(fresh, quantised.edits, quantised.subject.example)
    rebuilt.load_state_dict(quantised.graph.state_dict(), strict=True)
    with torch.inference_mode():
        assert torch.equal(rebuilt(quantised.images), quantised.graph(quantised.images))


def test_model_is_untouched() -> None:
    own = _small()
    model = own.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = Static()
    settings.apply(model, settings.plan(own, Workbench()), own, Workbench())
    assert model.training
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_layer_runs_in_integers(quantised: Any) -> None:
    found = kernels(quantised.path)
    assert found.counts["QLinearConv"] == SITES - 1
    assert found.counts["QGemm"] == 1
    assert found.counts["QLinearAdd"] == 3
    assert found.counts["QLinearGlobalAveragePool"] == 1
    assert found.int8_share == 1
    # Only the input is quantised; nothing is dequantised on the way.
    assert found.counts["QuantizeLinear"] == 1
    assert "DequantizeLinear" not in found.counts
    assert "Relu" not in found.counts


def test_resnet_20_is_fused_whole_and_small(subject: Subject, tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = Subject(
        model=resnet(depth=20, in_channels=1),
        example=subject.example,
        calibration=[subject.calibration[0]],
    )
    settings = Static(reduce_range=False)
    graph, _ = settings.apply(own.model, settings.plan(own, Workbench()), own, Workbench())
    path = tmp_path / "int8.onnx"
    to_onnx(graph, own.example, path)
    found = kernels(path)
    assert found.counts["QLinearConv"] == 21
    assert "Conv" not in found.counts
    assert found.int8_share == 1
    assert found.macs == 31_021_952
    assert path.stat().st_size <= 300_000  # ONNX Runtime's own quantiser: 372,000


@pytest.fixture(scope="module")
def narrow(subject: Subject, quantised: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same in 7 bits, whose products no processor overflows: the file of any is exact."""
    settings = Static(reduce_range=True)
    plan = settings.plan(subject, Workbench())
    graph, _ = settings.apply(copy.deepcopy(subject.model), plan, subject, Workbench())
    path = tmp_path_factory.mktemp("narrow") / "int7.onnx"
    to_onnx(graph, subject.example, path)
    return dataclasses.replace(quantised, plan=plan, graph=graph, path=path)


def test_file_agrees_with_simulation(narrow: Any) -> None:
    parity = check_parity(
        narrow.graph,
        narrow.path,
        narrow.images,
        predict=_predict(narrow.path),
        kind="int8",
    )
    assert parity.samples == 512
    assert parity.agreement >= 0.995
    assert parity.max_difference < 0.02


def test_openvino_runs_the_file(narrow: Any) -> None:
    pytest.importorskip("openvino")
    found = _predict(narrow.path, "openvino")(narrow.images)
    with torch.inference_mode():
        ours = narrow.graph(narrow.images)
    # It adds residuals before it rounds where ONNX says to round first: nearer to float, and
    # some levels from what both ONNX Runtime and the simulation compute.
    assert (found - ours).abs().mean() < 0.01 * ours.std()
    assert (found.argmax(1) == ours.argmax(1)).float().mean() >= 0.98


def test_accuracy_is_kept(quantised: Any, test_images: Images) -> None:
    quality = TopOne(test_images)
    before, after = quality(quantised.subject.model), quality(quantised.graph)
    assert before.value > 0.6  # it is trained, or the comparison would say nothing
    assert abs(after.drop_from(before)[0]) <= 1.0


class _Recorder(Interpreter):
    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__(graph)
        self.seen: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        self.seen[n] = result = super().run_node(n)
        return result


def _int32_conv(levels: np.ndarray, weight: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """A convolution in int32 alone, (sample, channel, height, width)."""
    levels = np.pad(levels, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    size = weight.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(levels, (size, size), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight, dtype=np.int32)


@pytest.mark.parametrize(
    ("site", "source", "stride", "pad", "relu"),
    [
        ("conv1", "input", 1, 1, True),
        ("stage1.0.conv2", "stage1.0.conv1.output", 1, 1, False),
        ("stage2.0.conv1", "stage1.0.add.output", 2, 1, True),
        ("stage2.0.shortcut.0", "stage1.0.add.output", 2, 0, False),
    ],
)
def test_convolution_equals_int32_arithmetic(
    quantised: Any, site: str, source: str, stride: int, pad: int, relu: bool
) -> None:
    state = {name: value.numpy() for name, value in quantised.graph.state_dict().items()}
    recorder = _Recorder(quantised.graph)
    with torch.inference_mode():
        recorder.run(quantised.images[:4])
    levels = {
        str(operand(node, 1).target).removesuffix(".scale"): value.numpy()
        for node, value in recorder.seen.items()
        if node.target is QUANTIZE
    }
    entered = levels[source].astype(np.int32) - int(state[f"{source}.zero_point"])
    weight = state[f"{site}.weight.levels"].astype(np.int32)
    total = _int32_conv(entered, weight, stride, pad)
    total += state[f"{site}.bias.levels"].reshape(1, -1, 1, 1)
    assert total.dtype == np.int32
    unit = state[f"{source}.scale"] * state[f"{site}.weight.scale"].astype(np.float64)
    real = total * unit.reshape(1, -1, 1, 1)
    real = np.maximum(real, 0) if relu else real
    zero = int(state[f"{site}.output.zero_point"])
    due = np.clip(np.rint(real / state[f"{site}.output.scale"]) + zero, 0, 255)
    difference = np.abs(due - levels[f"{site}.output"].astype(np.int64))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3  # ties alone


def test_linear_equals_int32_arithmetic(quantised: Any) -> None:
    state = {name: value.numpy() for name, value in quantised.graph.state_dict().items()}
    recorder = _Recorder(quantised.graph)
    with torch.inference_mode():
        logits = recorder.run(quantised.images[:8]).numpy()
    quantisers = [node for node in recorder.seen if node.target is QUANTIZE]
    entered = recorder.seen[quantisers[-1]].numpy().astype(np.int32)
    source = "adaptive_avg_pool2d.output"
    entered -= int(state[f"{source}.zero_point"])
    total = entered @ state["linear.weight.levels"].astype(np.int32).T
    total += state["linear.bias.levels"]
    due = total * (state[f"{source}.scale"] * state["linear.weight.scale"].astype(np.float64))
    assert np.abs(due - logits).max() <= 1e-5 * np.abs(due).max()


@pytest.mark.parametrize("kind", [Percentile(share=99.0), LeastError()])
def test_other_ranges(subject: Subject, quantised: Any, kind: Range[Any]) -> None:
    settings = Static(range=kind, samples=128, reduce_range=False)
    plan = settings.plan(subject, Workbench())
    widest = {one.value: one.high - one.low for one in quantised.plan.values}
    assert plan.samples == 128
    assert all(one.high - one.low <= 1.0001 * widest[one.value] for one in plan.values)
    assert sum(one.high - one.low < 0.95 * widest[one.value] for one in plan.values) >= (
        5 if isinstance(kind, Percentile) else 0
    )


def test_four_bits_are_deployed_as_simulated(
    subject: Subject, quantised: Any, tmp_path: Path
) -> None:
    """Fewer levels than the type holds: the file must clamp where the simulation does."""
    settings = Static(bits=4, activation_bits=4, per="tensor", reduce_range=False)
    plan = settings.plan(subject, Workbench())
    graph, edits = settings.apply(subject.model, plan, subject, Workbench())
    assert edits[0].after == "int4 per tensor"
    levels = [v for n, v in graph.state_dict().items() if n.endswith("weight.levels")]
    assert max(int(v.abs().max()) for v in levels) == 7
    path = tmp_path / "int4.onnx"
    to_onnx(graph, subject.example, path)
    loud = 4 * quantised.images  # far outside what was calibrated on
    # 4-bit steps are coarse: one level more or less in a kernel's rounding may flip an answer.
    predict = _predict(path)
    with torch.inference_mode():
        same = graph(loud).argmax(1) == predict(loud).argmax(1)
    assert same.float().mean() >= 0.98
    rebuilt = settings.replay(resnet(depth=8, in_channels=1, width=8), edits, subject.example)
    rebuilt.load_state_dict(graph.state_dict())
    with torch.inference_mode():
        assert torch.equal(rebuilt(loud), graph(loud))


def test_seven_bits_exactly_where_kernels_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for isa in ((), ("avx512_vnni",)):
        device = Device(cpu="x", cores=1, memory_bytes=1, isa=isa, system="Linux")
        monkeypatch.setattr("tersenet.quantize.static.describe_device", lambda own=device: own)
        plan = Static().plan(_small(), Workbench())
        found.append((plan.weights[0].scheme.bits, len(plan.notes)))
    assert found == [(7, 1), (8, 0)]


def test_only_and_skip(subject: Subject, tmp_path: Path) -> None:
    settings = Static(only=("stage*",), skip=("*shortcut*",), samples=64, reduce_range=False)
    plan = settings.plan(subject, Workbench())
    assert [one.site for one in plan.weights] == [
        f"stage{stage}.0.conv{conv}" for stage in (1, 2, 3) for conv in (1, 2)
    ]
    assert {skip.site: skip.reason for skip in plan.skips} == {
        "conv1": "not among only",
        "linear": "not among only",
        "stage2.0.shortcut.0": "in skip",
        "stage3.0.shortcut.0": "in skip",
    }
    graph, _ = settings.apply(subject.model, plan, subject, Workbench())
    path = tmp_path / "part.onnx"
    to_onnx(graph, subject.example, path)
    found = kernels(path)
    assert found.counts["QLinearConv"] == 6
    assert 0 < found.int8_share < 1


def test_glob_that_matches_nothing() -> None:
    with pytest.raises(StructureError, match=r"'layer\*' in skip of .*: .* 'stem', 'head'"):
        Static(skip=("layer*",)).plan(_small(), Workbench())


def test_no_calibration_data() -> None:
    with pytest.raises(QuantizeError, match="no calibration data"):
        Static().plan(dataclasses.replace(_small(), calibration=()), Workbench())


def test_nan_and_constant_activations_name_the_place() -> None:
    broken = _changed(_small(), lambda model: model.stem.weight[0].fill_(float("nan")))
    with pytest.raises(QuantizeError, match=r"NaN or infinite at stem\.output"):
        Static().plan(broken, Workbench())

    def kill(model: Any) -> None:
        model.norm.weight.zero_()
        model.norm.bias.fill_(-1)

    with pytest.raises(QuantizeError, match=r"activation stem\.output is 0 on every"):
        Static().plan(_changed(_small(), kill), Workbench())


def test_zeroed_channels_stay_zero() -> None:
    """As pruning by masks leaves them, with a bias that dwarfs their weights."""

    def mask(model: Any) -> None:
        model.stem.weight[0].zero_()
        model.stem.weight[1].mul_(1e-20)
        model.norm.bias.fill_(0.5)

    own = _changed(_small(), mask)
    settings = Static()
    graph, _ = settings.apply(own.model, settings.plan(own, Workbench()), own, Workbench())
    state = graph.state_dict()
    assert not state["stem.weight.levels"][:2].any()
    x = own.calibration[0][0]
    with torch.inference_mode():
        difference = (graph(x) - own.model(x)).abs().max() / own.model(x).abs().max()
    assert difference < 0.02


class _Mostly(nn.Module):
    """Nearly all weights in an embedding, which has no integer kernel here."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(64, 64))
        self.linear = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.tanh(x @ self.table))


def test_under_half_of_the_weights_is_an_error_unless_asked_for() -> None:
    x = torch.randn(8, 64)
    own = Subject(model=_Mostly(), example=(x,), calibration=[(x, torch.zeros(8))])
    with pytest.raises(QuantizeError, match=r"only 3.0 % of the weights, in 1 layers"):
        Static().plan(own, Workbench())
    assert Static(only=("linear",)).plan(own, Workbench()).share < 0.05


def test_quantised_twice(quantised: Any) -> None:
    with pytest.raises(QuantizeError, match="quantised already"):
        Static().plan(dataclasses.replace(quantised.subject, model=quantised.graph), Workbench())


def test_plan_of_another_network() -> None:
    own = _small()
    plan = Static().plan(own, Workbench())
    other = nn.Sequential(OrderedDict[str, nn.Module](stem=nn.Conv2d(1, 5, 3)))
    with pytest.raises(QuantizeError, match=r"plan is of another network: stem has shape"):
        Static().apply(other, plan, own, Workbench())


@pytest.mark.parametrize(
    "options", [{"bits": 1}, {"samples": 0}, {"range": "entropy"}, {"weight_bits": 8}]
)
def test_options_are_strict(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Static(**options)


class _Mixed(nn.Module):
    """Depthwise, inplace, relu6, pooling, concatenation, mean: no residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(True)
        )
        self.b = nn.Conv2d(8, 8, 3, padding="same", groups=8)
        self.pool = nn.MaxPool2d(2)
        self.c = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x)
        y += x
        return self.c(torch.cat([self.pool(y), self.pool(x)], 1).mean([2, 3]))


def test_other_operators_fuse_too(subject: Subject, tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = Subject(model=_Mixed(), example=subject.example, calibration=subject.calibration)
    settings = Static(reduce_range=True)  # exact on any processor
    graph, _ = settings.apply(own.model, settings.plan(own, Workbench()), own, Workbench())
    path = tmp_path / "small.onnx"
    to_onnx(graph, own.example, path)
    found = kernels(path)
    assert found.counts["QLinearConv"] == 2
    assert found.counts["QLinearAdd"] == 1
    assert found.counts["QLinearConcat"] == 1
    assert found.int8_share == 1
    images = torch.cat([x for x, _ in own.calibration])
    with torch.inference_mode():
        ours, real = graph(images), own.model.eval()(images)
    step = next(v for n, v in graph.state_dict().items() if n.endswith("cat.output.scale"))
    assert (ours - _predict(path)(images)).abs().max() < 2 * float(step)
    assert (ours - real).abs().max() < 0.1 * real.abs().max()


class _PreActivation(nn.Module):
    """A batch norm that cannot be folded, and an activation without an integer kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.act, self.head = nn.Hardswish(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(torch.relu(self.norm(x)))
        return self.head(self.act(x).mean((2, 3)))


def test_float_operators_between_integer_ones(tmp_path: Path) -> None:
    own = _small(model=_PreActivation().eval())
    settings = Static(reduce_range=True)  # exact on any processor
    plan = settings.plan(own, Workbench())
    assert [one.value for one in plan.values] == [
        "input",
        "stem.output",
        "norm.output",
        "conv.output",
        "add.output",
        "adaptive_avg_pool2d.output",
    ]
    graph, _ = settings.apply(own.model, plan, own, Workbench())
    path = tmp_path / "network.onnx"
    to_onnx(graph, own.example, path)
    found = kernels(path)
    assert found.counts["BatchNormalization"] == 1
    assert found.int8_share == 1
    x = own.calibration[0][0]
    with torch.inference_mode():
        assert (graph(x) - _predict(path)(x)).abs().max() < 0.01 * graph(x).abs().max()


def test_plan_is_deterministic(quantised: Any) -> None:
    again = Static(reduce_range=False).plan(quantised.subject, Workbench())
    assert again == quantised.plan
