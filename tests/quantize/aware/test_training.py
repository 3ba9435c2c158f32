"""What is trained is what ships; nothing else is touched; a killed training goes on exactly."""

import copy
import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from tersenet.core.types import Edit, EditKind, Subject, Workbench
from tersenet.errors import QuantizeError, TersenetError
from tersenet.export import check_parity, to_onnx
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.measure import predictor
from tersenet.models import resnet
from tersenet.quantize import Static
from tersenet.quantize.aware import Aware, Bits
from tersenet.quantize.aware.deploy import deploy, edits_of
from tersenet.quantize.aware.network import build, layers_of
from tersenet.quantize.graph.build import prepared
from tersenet.quantize.graph.lift import lift
from tersenet.run.saved import History, load, save


@dataclasses.dataclass(frozen=True)
class Noise:
    """Batches of noise, labelled by their means."""

    steps_per_epoch: int = 4
    size: int = 12

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        shift = torch.randint(0, 5, (16,), generator=generator)
        noise = torch.randn(16, 1, self.size, self.size, generator=generator)
        return noise + 0.5 * shift.view(-1, 1, 1, 1), shift


def network() -> nn.Module:
    torch.manual_seed(0)
    model = resnet(depth=8, in_channels=1, classes=5, width=6)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)  # also negative ones
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def subject(model: nn.Module, edits: tuple[Edit, ...] = ()) -> Subject:
    return Subject(
        model=model,
        example=(Noise().batch(0)[0][:2],),
        calibration=[Noise().batch(step) for step in range(100, 104)],
        original=copy.deepcopy(model),
        training=Noise(),
        edits=edits,
    )


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class _Values(Interpreter):
    """Runs a graph, keeps what is quantised before and after, and may be given the levels."""

    def __init__(self, module: torch.fx.GraphModule, given: dict[str, Tensor]) -> None:
        super().__init__(module)
        self.given = given
        self.before: dict[str, Tensor] = {}
        self.quantised: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_module" and str(n.target).startswith("aware.activations."):
            name = str(n.target).removeprefix("aware.activations.").removesuffix(".grid")
            self.before[name], self.quantised[name] = self.env[n.args[0]], result
        if n.target is QUANTIZE:
            name = str(n.args[1].target).removesuffix(".scale").removesuffix(".step")
            self.before.setdefault(name, self.env[n.args[0]])
        if n.target is DEQUANTIZE and n.args[0].op != "get_attr":
            name = str(n.args[1].target).removesuffix(".scale")
            given = self.given.get(name)
            return given if given is not None and given.shape == result.shape else result
        return result


METHODS = {
    "lsq": Aware(weight_bits=4, activation_bits=4),
    "lsq+, 2 bits": Aware(weight_bits=2, activation_bits=3, activations="lsq+"),
    "dorefa and pact": Aware(
        weight_bits=3, activation_bits=4, weights="dorefa", activations="pact"
    ),
    "wrpn": Aware(weight_bits=4, activation_bits=4, weights="wrpn", activations="wrpn"),
    "ranges": Aware(weight_bits=8, activation_bits=8, weights="min-max", activations="ema"),
    "ternary": Aware(weight_bits=2, weights="twn", epochs=1),
    "trained ternary": Aware(weight_bits=2, weights="ttq", epochs=1),
    "binary": Aware(weight_bits=1, activation_bits=1, weights="xnor", weights_after=0.5),
    "signs": Aware(weight_bits=1, activation_bits=1, weights="sign", activations="sign"),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_what_ships_computes_what_was_trained(method: Aware, tmp_path: Path) -> None:
    model = network()
    whole = subject(model)
    before = state(model)
    plan = method.plan(whole, Workbench())
    own = copy.deepcopy(model)
    trained = method.trained(own, plan, whole, Workbench())
    graph, edits = deploy(own, whole.example, trained, plan.bits), edits_of(trained, plan.bits)
    x = torch.cat([inputs for inputs, _ in whole.calibration])
    simulated = _Values(trained.module, {})
    forced = _Values(graph, simulated.quantised)
    with torch.inference_mode():
        shipped = graph(x)
        simulated.run(x)
        forced.run(x)
    # Given the same levels before it, each layer computes the same but for its bias, which ships
    # in whole units of (input scale * weight scale).
    buffers, compared = dict(graph.named_buffers()), 0
    for name, before_rounding in simulated.before.items():
        theirs = forced.before[name]
        if theirs.shape != before_rounding.shape:
            continue  # a mean is written as the pooling and the flattening that it is
        site = name.removesuffix(".output")
        unit = buffers.get(f"{site}.bias.scale", buffers.get(f"{site}.weight.scale"))
        half = 0.0 if unit is None else unit.max().item() / 2
        slack = 1e-4 * before_rounding.abs().max().item()
        if method.activations == "sign" and name.endswith(".input"):
            # It reads another layer's sums: the signs agree but next to zero.
            assert ((theirs >= 0) == (before_rounding >= 0)).float().mean() >= 0.99, name
            continue
        assert (theirs - before_rounding).abs().max().item() <= half + slack, name
        compared += 1
    assert compared >= 5
    for name, value in state(model).items():
        assert torch.equal(value, before[name]), name
    again = method.replay(network(), edits, whole.example)
    again.load_state_dict(graph.state_dict())
    assert torch.equal(again(x), shipped)
    levels = {name: value for name, value in graph.named_buffers() if name.endswith(".levels")}
    assert {f"{edit.site}.weight.levels" for edit in edits} <= levels.keys()
    for edit in edits:
        own = levels[f"{edit.site}.weight.levels"]
        finer = 64 if own.abs().max() == 64 else 1  # of layers that read signs
        assert edit.data["low"] * finer <= own.min()
        assert own.max() <= edit.data["high"] * finer
    if method.weight_bits < 3:
        inner = [levels[f"{edit.site}.weight.levels"] for edit in edits[1:-1]]
        assert all(len(value.unique()) <= 2**method.weight_bits for value in inner)
    if method not in (METHODS["lsq"], METHODS["binary"], METHODS["signs"]):
        return
    path = tmp_path / "model.onnx"
    to_onnx(graph, whole.example, path)
    parity = check_parity(
        graph, path, x, predict=predictor(path, deployment=whole.deployment), kind="int8"
    )
    assert parity.agreement >= 0.98


def test_training_helps_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    model, method = network(), Aware(weight_bits=2, epochs=3, learning_rate=0.05)
    whole = subject(model)
    plan = method.plan(whole, Workbench())

    class KilledError(Exception):
        pass

    def kill(text: str, done: int, steps: int) -> None:
        if done == 7:
            raise KilledError

    def trained(folder: Path, tick: Any = lambda *of: None) -> dict[str, Tensor]:
        folder.mkdir(exist_ok=True)
        bench = Workbench(folder=folder, tick=tick)
        return state(method.trained(copy.deepcopy(model), plan, whole, bench).module)

    whole_run = trained(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        clock = itertools.count(step=100)  # so that every step is one to be kept
        patch.setattr(time, "monotonic", lambda: next(clock))
        with pytest.raises(KilledError):
            trained(tmp_path / "killed", kill)
        assert (tmp_path / "killed" / "checkpoint.safetensors").exists()
        resumed = trained(tmp_path / "killed")
    for name, value in whole_run.items():
        assert torch.equal(value, resumed[name]), name


def test_bits_are_where_they_are_due() -> None:
    model = network()
    names = [site.name for site in layers_of(prepared(model, subject(model).example))[0]]
    bits = {name: Bits(weight=4, activation=3) for name in names}
    built = build(
        model,
        subject(model).example,
        bits,
        weights="lsq",
        activations="lsq",
        calibration=subject(model).calibration,
    )
    placed = {one.name: one for one in built.placed}
    # Between two convolutions the value itself has few bits.
    assert placed["stage1.0.conv1.output"].bits == 3
    # The sum goes on as a shortcut: it is carried in 8, and the layer reads a copy of its own.
    assert placed["conv1.output"].bits == 8
    assert placed["stage1.0.conv1.input"].bits == 3
    # What is pooled as well.
    assert placed["stage3.0.add.output"].bits == 8


@pytest.mark.parametrize("activations", ["lsq", "ema"])
def test_training_starts_from_what_was_quantised(activations: Any, tmp_path: Path) -> None:
    """Before its first step the trainable network computes what the quantised one does."""
    model = network()
    whole = subject(model)
    before = Static(bits=4, activation_bits=4, rounding="gptq", bias_correction="empirical")
    first, first_edits = before.apply(
        copy.deepcopy(model), before.plan(whole, Workbench()), whole, Workbench()
    )
    known = lift(first)
    for edit in first_edits:
        stored: Any = first.get_submodule(f"{edit.site}.weight")
        reals = stored.levels * stored.scale.view(-1, *[1] * (stored.levels.ndim - 1))
        assert torch.equal(known.model.get_parameter(f"{edit.site}.weight"), reals)
    on = dataclasses.replace(whole, model=first, edits=tuple(first_edits))
    method = Aware(weight_bits=4, activation_bits=4, edge_bits=4, activations=activations)
    plan = method.plan(on, Workbench())
    assert plan.notes == ("starts from 10 weights that were quantised before",)
    bits = {name: Bits(weight=4, activation=4) for name in plan.bits}
    built = build(
        known.model,
        whole.example,
        bits,
        weights="lsq",
        activations=activations,
        calibration=whole.calibration,
        known=known,
    )
    for edit in first_edits:
        levels = first.get_buffer(f"{edit.site}.weight.levels")
        own = built.weights[edit.site]
        weight = built.module.get_parameter(f"{edit.site}.weight")
        scale = own.unit(weight).view(-1, *[1] * (levels.ndim - 1))
        assert torch.equal((own(weight) / scale).round(), levels.float())
    shared = built.activations.keys() & known.values.keys()
    assert {"input", "stage1.0.conv1.output"} <= shared
    if activations == "ema":  # which has any level of zero
        for name in shared:
            if built.activations[name].bits == 4:
                step, zero = built.activations[name].grid()
                assert step.item() == pytest.approx(known.values[name].scale.item(), rel=1e-6)
                assert zero.item() == known.values[name].zero_point
    graph, edits = method.apply(copy.deepcopy(first), plan, on, Workbench())
    history = History(model={"class": "Net"}, example=((2, 1, 12, 12),))
    history = history.then(before, first_edits).then(method, edits)
    save(tmp_path, graph, history, {})
    x = whole.calibration[0][0]
    assert torch.equal(load(tmp_path, model=network())(x), graph(x))


def test_training_cannot_start_from_signs() -> None:
    model = network()
    whole, method = subject(model), METHODS["signs"]
    graph, _ = method.apply(
        copy.deepcopy(model), method.plan(whole, Workbench()), whole, Workbench()
    )
    with pytest.raises(QuantizeError, match="keeps signs alone"):
        method.plan(dataclasses.replace(whole, model=graph), Workbench())


def test_masked_weights_stay_zero_on_every_grid() -> None:
    for weights, bits in (("lsq", 4), ("dorefa", 3), ("xnor", 1)):
        model = network()
        name = "stage2.0.conv1.weight"
        weight = model.get_parameter(name)
        zero = torch.rand(weight.shape) < 0.6
        with torch.no_grad():
            weight.masked_fill_(zero, 0)
        mask = Edit(site=name, kind=EditKind.MASK, before="", after="")
        method = Aware(weight_bits=bits, weights=weights, epochs=1)
        whole = subject(model, (mask,))
        graph, _ = method.apply(
            copy.deepcopy(model), method.plan(whole, Workbench()), whole, Workbench()
        )
        levels = dict(graph.named_buffers())[f"{name}.levels"]
        assert not levels[zero].any()
        assert levels[~zero].any()


def test_batch_norms_stop_following_batches() -> None:
    def means(freeze: float) -> Tensor:
        model = network()
        whole, method = subject(model), Aware(freeze=freeze, epochs=1)
        trained = method.trained(model, method.plan(whole, Workbench()), whole, Workbench())
        return dict(trained.module.named_buffers())["stage1.0.bn1.running_mean"]

    never, half, always = (means(freeze) for freeze in (0.0, 0.5, 1.0))
    sizes = network().get_buffer("stage1.0.bn1.running_mean").abs()
    assert torch.equal(never.abs(), sizes)  # a filter with a negative gain is turned round
    assert not torch.equal(half, never)
    assert not torch.equal(half, always)


def test_a_sign_ships_as_one() -> None:
    model, method = network(), METHODS["signs"]
    whole = subject(model)
    graph, _ = method.apply(
        copy.deepcopy(model), method.plan(whole, Workbench()), whole, Workbench()
    )
    levels = [node for node in graph.graph.nodes if node.target is QUANTIZE]
    ends = {node.args[3:] for node in levels}
    assert (-1, 1) in ends
    for node in levels:
        if node.args[3:] == (-1, 1):
            (reader,) = node.users
            assert reader.target is DEQUANTIZE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"overrides": {"nothing*": Bits(weight=4)}},
            "'nothing\\*' in overrides of .* matches none",
        ),
        ({"skip": ("nowhere",)}, "'nowhere' in skip of quantize aware matches none"),
        ({"weights": "xnor", "weight_bits": 4}, "xnor weights have 1 bit, not 4"),
        ({"weights": "wrpn", "weight_bits": 1}, "wrpn weights have 2 to 8 bits"),
        ({"activations": "sign"}, "sign activations have 1 bit"),
        ({"overrides": {"conv1": Bits(weight=8, activation=1)}}, "input: .* of either sign"),
    ],
)
def test_wrong_settings_are_told(options: dict[str, Any], message: str) -> None:
    model = network()
    whole, method = subject(model), Aware(epochs=1, **{"activation_bits": 2} | options)
    with pytest.raises(TersenetError, match=message):
        method.apply(copy.deepcopy(model), method.plan(whole, Workbench()), whole, Workbench())


def test_data_that_cannot_be_trained_on_is_told() -> None:
    model = network()
    whole, method = subject(model), Aware(epochs=1)
    with pytest.raises(QuantizeError, match="needs training and calibration data"):
        method.plan(dataclasses.replace(whole, training=None), Workbench())
    plan = method.plan(whole, Workbench())
    zeros = torch.zeros(4, 1, 12, 12), torch.zeros(4, dtype=torch.long)
    constant = dataclasses.replace(whole, calibration=[zeros])
    with pytest.raises(QuantizeError, match="the activation input is 0 on every"):
        method.apply(copy.deepcopy(model), plan, constant, Workbench())
    broken = dataclasses.replace(whole, calibration=[(zeros[0] * float("nan"), zeros[1])])
    with pytest.raises(QuantizeError, match="NaN or infinite at input"):
        method.apply(copy.deepcopy(model), plan, broken, Workbench())
