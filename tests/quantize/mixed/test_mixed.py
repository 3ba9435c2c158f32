"""Sensitivities against their definitions, the choice against brute force, and the method."""

import copy
import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Subject, Workbench
from tersenet.errors import QuantizeError, TersenetError
from tersenet.quantize import Aware, Static
from tersenet.quantize.graph.build import prepared
from tersenet.quantize.graph.structure import sites_of
from tersenet.quantize.grids.linear import round_trip, symmetric
from tersenet.quantize.mixed import (
    Mixed,
    choose,
    hessian_sensitivity,
    hessian_traces,
    kl_sensitivity,
)
from tersenet.quantize.mixed.choice import stored_bytes
from tersenet.timing import files


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )


@dataclasses.dataclass(frozen=True)
class Points:
    steps_per_epoch: int = 3

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(32, 6, 1, 1, generator=generator)
        return inputs, inputs[:, :3].flatten(1).argmax(1)


def subject(model: nn.Module) -> Subject:
    return Subject(
        model=model,
        example=(Points().batch(0)[0][:2],),
        calibration=[Points().batch(step) for step in range(100, 103)],
        original=copy.deepcopy(model),
        training=Points(),
    )


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="sum")


def test_divergence_is_that_of_the_network_with_one_layer_rounded() -> None:
    model = network()
    whole = subject(model)
    module = prepared(model, whole.example)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    sites = sites_of(module)[0]
    inputs = [inputs for inputs, _ in whole.calibration]
    found = kl_sensitivity(module, sites, inputs, (3, 8))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    other = copy.deepcopy(model)
    weight = other[3].weight
    # The best of many shares of each row's range, searched anew.
    rows = []
    for row in weight.detach():
        grids = [
            round_trip(row, symmetric(row.abs().max() * share, bits=3))
            for share in torch.linspace(1, 0.3, 71)
        ]
        rows.append(min(grids, key=lambda one, row=row: float((one - row).square().sum())))
    with torch.no_grad():
        weight.copy_(torch.stack(rows))
        p, q = (net(torch.cat(inputs)).softmax(1).double().numpy() for net in (model, other))
    expected = (p * np.log(p / q)).sum(1).mean()
    assert found["3"][3] == pytest.approx(expected, rel=1e-3)
    assert all(own[8] < own[3] for own in found.values())


def test_traces_are_the_hessians() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs = torch.randn(20, 3)
    batches = [(inputs[:10], inputs[:10, 0].gt(0).long()), (inputs[10:], torch.ones(10).long())]
    module = prepared(model, (inputs[:2],))
    sites = sites_of(module)[0]
    found = hessian_traces(
        module,
        sites,
        batches,
        cross_entropy,
        probes=1600,
        generator=torch.Generator().manual_seed(1),
    )
    targets = torch.cat([targets for _, targets in batches])
    for name, layer in (("0", model[0]), ("2", model[2])):

        def loss(weight: Tensor, name: str = name) -> Tensor:
            outputs = torch.func.functional_call(model, {f"{name}.weight": weight}, (inputs,))
            return functional.cross_entropy(outputs, targets)

        full = torch.autograd.functional.hessian(loss, layer.weight.detach())
        exact = full.reshape(layer.weight.numel(), -1).trace().item()
        # Products of different layers average out slowly: three standard errors.
        assert found[name] == pytest.approx(exact, abs=0.04)
    omega = hessian_sensitivity(module, sites, found, (2, 4))
    assert omega["0"][2] > omega["0"][4] > 0


def test_the_trace_of_softmax_regression_is_its_closed_form() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(5, 3), torch.randn(30, 5)
    module = prepared(model, (x[:2],))
    batches, draws = [(x, torch.zeros(30).long())], torch.Generator().manual_seed(0)
    sites = sites_of(module)[0]
    found = hessian_traces(module, sites, batches, cross_entropy, probes=400, generator=draws)
    p = model(x).softmax(1)
    expected = ((p * (1 - p)).sum(1) * x.square().sum(1)).mean().item()
    assert next(iter(found.values())) == pytest.approx(expected, rel=0.06)


def test_the_choice_is_the_best_there_is() -> None:
    rng = np.random.default_rng(0)
    names, bits = [f"layer{i}" for i in range(5)], (2, 4, 8)
    for budget in (900, 1300, 2000):
        values = {name: int(rng.integers(100, 800)) for name in names}
        moved = {
            name: dict(zip(bits, sorted(rng.random(3), reverse=True), strict=True))
            for name in names
        }
        costs = {
            name: {bit: stored_bytes(values[name], bit, packed=True) for bit in bits}
            for name in names
        }
        ways = [
            (sum(moved[n][b] for n, b in zip(names, way, strict=True)), way)
            for way in itertools.product(bits, repeat=5)
            if sum(costs[n][b] for n, b in zip(names, way, strict=True)) <= budget
        ]
        if not ways:
            with pytest.raises(QuantizeError, match="even with the cheapest bits"):
                choose(moved, costs, budget=budget)
            continue
        found = choose(moved, costs, budget=budget)
        assert sum(moved[name][bit] for name, bit in found.items()) == pytest.approx(min(ways)[0])
        assert sum(costs[name][bit] for name, bit in found.items()) <= budget


def test_bytes_are_those_of_the_file_or_of_the_bits() -> None:
    assert stored_bytes(1000, 3, packed=True) == 375
    assert [stored_bytes(1000, bit, packed=False) for bit in (2, 4, 5, 8)] == [500, 500, 1000, 1000]


@pytest.mark.parametrize("measure", ["kl", "hessian"])
def test_the_budget_is_kept_and_the_bits_are_applied(measure: str) -> None:
    model = network()
    whole = subject(model)
    method = Mixed(average_bits=4, measure=measure, choices=(2, 4, 8), bits={"5": 8})
    plan = method.plan(whole, Workbench())
    sizes = {"1": 48, "3": 64, "5": 24}
    assert plan.chosen.keys() == sizes.keys()
    assert plan.chosen["5"] == 8
    spent = sum(sizes[name] * bit / 8 for name, bit in plan.chosen.items())
    assert plan.weight_bytes == spent <= plan.budget == 4 * 136 / 8
    graph, _ = method.apply(copy.deepcopy(model), plan, whole, Workbench())
    for name, bit in plan.chosen.items():
        levels = graph.get_buffer(f"{name}.weight.levels")
        assert levels.abs().max() <= 2 ** (bit - 1) - 1


def test_training_may_follow() -> None:
    model = network()
    whole = subject(model)
    method = Mixed(average_bits=3, choices=(2, 4), then=Aware(epochs=1, learning_rate=0.01))
    plan = method.plan(whole, Workbench())
    graph, edits = method.apply(copy.deepcopy(model), plan, whole, Workbench())
    assert {edit.site: edit.data["weight"] for edit in edits} == plan.chosen
    again = method.replay(network(), edits, whole.example)
    again.load_state_dict(graph.state_dict())
    x = whole.calibration[0][0]
    assert torch.equal(again(x), graph(x))


def _slow_floats(node: NodeProto) -> float:
    """A product in float takes its size, in integers a quarter; conversions next to nothing."""
    if node.op_type in ("Gemm", "MatMul", "FusedGemm"):
        return 4.0
    return 1.0 if node.op_type == "QGemm" else 0.001


def test_a_budget_of_measured_time(made_up: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float takes 12 and integers 3: at 1.9 times float's speed one has time to stay float."""
    monkeypatch.setattr(files, "compare_many", made_up(_slow_floats))
    whole = subject(network())
    method = Mixed(speedup=1.9, choices=(8,))
    plan = method.plan(whole, Workbench())
    assert sorted(plan.chosen.values()) == [8, 8, 32]
    worst = max(plan.sensitivities, key=lambda name: plan.sensitivities[name][8])
    assert plan.chosen[worst] == 32
    assert plan.ms == pytest.approx(6, abs=0.1)
    assert plan.ms <= plan.budget == pytest.approx(12 / 1.9, abs=0.1)
    assert plan.summary.startswith("2 of 8 bits, 1 in float: ")
    graph, edits = method.apply(copy.deepcopy(network()), plan, whole, Workbench())
    assert worst not in {edit.site for edit in edits}
    assert graph.get_parameter(f"{worst}.weight").dtype == torch.float32
    with pytest.raises(QuantizeError, match="ask for less"):
        Mixed(speedup=5.0).plan(whole, Workbench())
    with pytest.raises(QuantizeError, match="nothing had to be quantised"):
        Mixed(speedup=0.9).plan(whole, Workbench())
    with pytest.raises(QuantizeError, match="a budget of bytes"):
        Mixed(speedup=2.0, then=Aware()).plan(whole, Workbench())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "has one budget"),
        ({"average_bits": 4, "weight_bytes": 9}, "has one budget"),
        ({"weight_bytes": 9}, "even with the cheapest bits"),
        ({"average_bits": 4, "choices": (1, 4)}, "2 to 8 bits, not 1"),
        (
            {"average_bits": 4, "bits": {"head*": 8}},
            "'head\\*' in bits of .* matches none",
        ),
    ],
)
def test_wrong_settings_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TersenetError, match=message):
        Mixed(**options).plan(subject(network()), Workbench())


def test_layers_left_float_are_not_paid_for() -> None:
    whole = subject(network())
    method = Mixed(average_bits=4, then=Static(skip=("1",)))
    assert method.plan(whole, Workbench()).chosen.keys() == {"3", "5"}
    with pytest.raises(QuantizeError, match="no calibration data"):
        method.plan(dataclasses.replace(whole, calibration=[]), Workbench())
