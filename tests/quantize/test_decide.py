"""How weights are decided: each method against what it must equal or must not exceed."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.export import kernels, to_onnx
from tersenet.measure import open_session
from tersenet.quantize import (
    ROUNDINGS,
    Override,
    Scheme,
    Static,
    Weights,
    collect_statistics,
    costliest,
    layer_noise,
    round_trip,
    sqnr,
    write_statistics,
)
from tersenet.quantize.graph.build import matched, prepared, replayed, stored
from tersenet.quantize.graph.equalise import equalise
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.structure import sites_of, values_of
from tersenet.quantize.ranges import LeastWeightError
from tersenet.quantize.ranges.weight_range import weight_grid
from tersenet.quantize.rounding import BlockRounding
from tersenet.quantize.rounding.decide import Deciding, decide_weights
from tersenet.quantize.rounding.gptq import gptq, patches
from tersenet.quantize.rounding.stretches import stretches


class _Net(nn.Module):
    """A residual block, a depthwise layer with ReLU6 and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU6())
        self.flat = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.flat(self.deep(x))
        return self.head(x.mean([2, 3]))


@pytest.fixture(scope="module")
def whole() -> Subject:
    torch.manual_seed(0)
    model = _Net().eval()
    with torch.no_grad():
        # Channels of very different ranges, as folded batch norms leave them.
        model.deep[0].weight *= torch.logspace(-1.5, 1, 6).view(-1, 1, 1, 1)
    batches = [(torch.randn(16, 2, 8, 8), torch.zeros(16)) for _ in range(4)]
    return Subject(model=model, example=(batches[0][0][:2],), calibration=batches)


def _error(whole: Subject, **options: Any) -> float:
    settings = Static(reduce_range=False, **options)
    plan = settings.plan(whole, Workbench())
    graph, _ = settings.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    x = whole.calibration[0][0]
    with torch.inference_mode():
        return float((graph(x) - whole.model(x)).square().mean())


@pytest.mark.parametrize(
    ("rounding", "options", "share"),
    [("gptq", {}, 0.2), ("adaround", {"steps": 150}, 0.7), ("block", {"steps": 150}, 0.85)],
)
def test_decided_rounding_beats_the_nearest_level(
    whole: Subject, rounding: str, options: dict[str, Any], share: float
) -> None:
    """Learned rounding has 150 steps here, where the papers take 10,000 and the default is 400.

    A block's steps are shared by all of its weights: it is given more room than single layers.
    """
    plain = _error(whole, bits=3, weight_range="mse")
    found = _error(whole, bits=3, weight_range="mse", rounding={rounding: options})
    assert found < share * plain


def test_steps_of_activations_learn_with_the_weights(whole: Subject) -> None:
    """Of what outliers stretched: most values then share few levels, until the step shrinks."""
    settings = Static(bits=8, activation_bits=3, reduce_range=False)
    plan = settings.plan(whole, Workbench())
    given = {one.value: one for one in plan.values}
    x = whole.calibration[0][0]
    errors = []
    for rate in (0.0, 0.01):
        module = prepared(whole.model, whole.example)
        sites, values = matched(module, plan.weights, given)
        grids, ranges = decide_weights(
            module,
            sites,
            values,
            weights={one.site: one for one in plan.weights},
            ranges=given,
            calibration=whole.calibration,
            settings=Deciding(rounding=BlockRounding(step_rate=rate, steps=150)),
            bench=Workbench(),
        )
        moved = {name for name, one in ranges.items() if one.scale != given[name].scale}
        # Values within blocks; what a block returns is compared before its levels.
        within = {"deep.0.input", "deep.0.output", "flat.output", "adaptive_avg_pool2d.output"}
        assert moved == (within if rate else set())
        graph = stored(module, sites, values, weights=plan.weights, ranges=ranges, grids=grids)
        with torch.inference_mode():
            errors.append(float((graph(x) - whole.model(x)).square().mean()))
    assert errors[1] < errors[0]


def test_correction_of_biases_lowers_the_error(whole: Subject) -> None:
    plain = _error(whole, bits=3)
    assert _error(whole, bits=3, bias_correction="empirical") < plain
    assert _error(whole, bits=3, bias_correction="analytic") < plain


def test_gptq_is_the_nearest_level_where_inputs_are_orthogonal() -> None:
    module = prepared(nn.Sequential(nn.Linear(8, 5)).eval(), (torch.eye(8),))
    (site,) = sites_of(module)[0]
    weight = tensor_of(module, site.weight).detach()
    grid = Scheme(bits=3).grid(weight)
    found = gptq(site.node, weight, grid, original=[torch.eye(8)], quantised=[torch.eye(8)])
    assert torch.equal(found, round_trip(weight, grid))


def test_gptq_makes_up_for_one_column_in_the_next() -> None:
    """Two equal inputs: only the sum of their weights matters, and one step is enough for it."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.3, 0.3]]))
    x = torch.randn(50, 1).expand(50, 2).contiguous()
    module = prepared(nn.Sequential(layer).eval(), (x[:2],))
    (site,) = sites_of(module)[0]
    weight = tensor_of(module, site.weight).detach()
    grid = Scheme(bits=2, per="tensor").between(torch.tensor(-0.5), torch.tensor(0.5))
    found = gptq(site.node, weight, grid, original=[x], quantised=[x], damping=1e-4)
    assert round_trip(weight, grid).sum() == 1.0
    assert sorted(found.flatten().tolist()) == [0.0, 0.5]  # 0.5 is nearer to 0.6 than 1.0


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding="same", dilation=2),
        nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv1d(4, 2, 4, padding="same"),
        nn.Linear(5, 3),
    ],
)
def test_patches_times_kernels_are_the_layer(layer: nn.Module) -> None:
    torch.manual_seed(0)
    shape = {"Linear": (7, 5), "Conv1d": (2, 4, 9), "Conv2d": (2, 4, 9, 8)}[type(layer).__name__]
    x = torch.randn(shape)
    module = prepared(nn.Sequential(layer).eval(), (x,))
    (site,) = sites_of(module)[0]
    weight = tensor_of(module, site.weight).detach()
    found = patches(site.node, x, weight)  # (group, value, place)
    rows = weight.flatten(1).unflatten(0, (found.shape[0], -1))
    ours = (rows @ found).flatten(0, 1)  # (out, place)
    due = layer(x) - layer.bias.view(-1, *[1] * (x.ndim - 2))  # type: ignore[union-attr,operator]
    expected = due.transpose(0, 1).flatten(1) if x.ndim > 2 else due.T
    assert torch.allclose(ours, expected, atol=1e-5)


def test_equalisation_changes_nothing_but_the_ranges(whole: Subject) -> None:
    module = prepared(whole.model, whole.example)
    x = 30 * whole.calibration[0][0]  # far into both caps
    with torch.inference_mode():
        before = module(x)
        module = equalise(module)
        after = module(x)
        assert whole.model.stem(x).max() == 6
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-4)
    sites = {site.name: tensor_of(module, site.weight).detach() for site in sites_of(module)[0]}
    ours = sites["deep.0"].abs().flatten(1).amax(1)
    theirs = sites["flat"].abs().amax((0, 2, 3))
    assert torch.allclose(ours, theirs, rtol=0.01)


def test_equalised_networks_load_exactly(whole: Subject) -> None:
    settings = Static(per="tensor", equalise=True, reduce_range=False)
    plan = settings.plan(whole, Workbench())
    graph, edits = settings.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    again = replayed(_Net().eval(), edits, whole.example)
    again.load_state_dict(graph.state_dict(), strict=True)
    x = whole.calibration[0][0]
    with torch.inference_mode():
        assert torch.equal(graph(x), again(x))


def test_blocks_end_where_one_activation_is_alive(whole: Subject) -> None:
    module = prepared(whole.model, whole.example)
    sites, _ = sites_of(module)
    found = stretches(module, sites, "block")
    own = {site.weight: site.name for site in sites}
    # The stem is a block; from there to the sum two activations are alive.
    assert [[own[one] for one in each.weights] for each in found] == [
        ["stem.0"],
        ["deep.0", "flat"],
        ["head"],
    ]


def test_noise_is_that_of_numbers_and_names_the_worst(whole: Subject) -> None:
    module = prepared(whole.model, whole.example)
    settings = Static(
        reduce_range=False, overrides=(Override("flat", bits=2), Override("deep.*", bits=8))
    )
    plan = settings.plan(whole, Workbench())
    sites, _ = sites_of(module)
    found = layer_noise(
        module,
        sites,
        values_of(module, sites),
        whole.calibration[0][0],
        weights={one.site: one for one in plan.weights},
        ranges={one.value: one for one in plan.values},
    )
    assert [one.site for one in found] == ["stem.0", "deep.0", "flat", "head"]
    worst = costliest(found)[0]
    assert worst.site == "flat"
    assert "8 bits by an override" in worst.advice
    assert found[0].weight_db > 35 > worst.weight_db
    signal = torch.randn(10_000)
    assert sqnr(signal, 1.1 * signal) == pytest.approx(20, abs=1e-3)
    few = Static(activation_bits=3, diagnose=True, reduce_range=False)
    (told,) = few.plan(whole, Workbench()).notes
    assert "8 bits by an override of deep.0.input" in told
    kept = dataclasses.replace(few, overrides=(Override("deep.0.input", activation_bits=8),))
    assert "deep.0.input" not in {one.value for one in kept.plan(whole, Workbench()).values}
    told = Static(reduce_range=False, diagnose=True).plan(whole, Workbench()).notes
    assert told[0].startswith("the layers that cost most: ")


def test_least_error_grid_is_the_best_of_a_search(whole: Subject) -> None:
    module = prepared(whole.model, whole.example)
    site = sites_of(module)[0][0]
    weight = tensor_of(module, site.weight).detach()
    scheme = Scheme(bits=3)
    grid = weight_grid(weight, site, scheme, LeastWeightError())
    found = (round_trip(weight, grid) - weight).square().flatten(1).sum(1)
    for share in torch.linspace(0.3, 1, 71):
        low, high = scheme.extremes(weight)
        other = scheme.between(low * share, high * share)
        error = (round_trip(weight, other) - weight).square().flatten(1).sum(1)
        assert (found <= error + 1e-6).all()


def test_statistics_that_lack_a_layer(whole: Subject, tmp_path: Any) -> None:
    file = tmp_path / "stats.yaml"
    with pytest.raises(QuantizeError, match="cannot read the statistics"):
        Static(statistics=file).plan(whole, Workbench())
    file.write_text("conv1: {output: {min: 0}}\n")
    with pytest.raises(QuantizeError, match="collect them again"):
        Static(statistics=file).plan(whole, Workbench())


def test_what_is_added_is_carried_and_layers_read_copies(whole: Subject, tmp_path: Path) -> None:
    """The sum and its terms have 8 bits, what each layer reads has 4; all runs in integers."""
    settings = Static(bits=4, activation_bits=4, range="mse")
    plan = settings.plan(whole, Workbench())
    bits = {one.value: one.bits for one in plan.values}
    assert bits == {
        "input": 4,
        "stem.0.output": 8,
        "deep.0.input": 4,
        "deep.0.output": 4,
        "flat.output": 8,
        "add.output": 8,
        "adaptive_avg_pool2d.output": 4,
    }
    graph, edits = settings.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    x = whole.calibration[0][0]
    with torch.inference_mode():
        due = graph(x)
        error = (due - whole.model(x)).square().mean()
    assert error < _error(whole, bits=4, activation_bits=4, range="mse", carried_bits=4)
    again = settings.replay(copy.deepcopy(whole.model), edits, whole.example)
    again.load_state_dict(graph.state_dict())
    with torch.inference_mode():
        assert torch.equal(again(x), due)
    path = tmp_path / "copies.onnx"
    to_onnx(graph, whole.example, path)
    assert kernels(path).int8_share == 1
    (found,) = open_session(path)(x.numpy())
    assert (torch.from_numpy(found.copy()) - due).abs().max() < 0.05 * due.abs().max()


def test_copies_take_their_ranges_from_statistics_of_what_they_copy(
    whole: Subject, tmp_path: Path
) -> None:
    path = tmp_path / "statistics.yaml"
    write_statistics(collect_statistics(whole.model, whole.example, whole.calibration), path)
    told = Static(activation_bits=4, statistics=path).plan(whole, Workbench())
    seen = Static(activation_bits=4).plan(whole, Workbench())
    assert [(one.value, one.bits) for one in told.values] == [
        (one.value, one.bits) for one in seen.values
    ]
    for ours, theirs in zip(told.values, seen.values, strict=True):
        assert ours.scale == pytest.approx(theirs.scale, rel=1e-5)


class _Decoder(nn.Module):
    """Looked up, and spread out again: weights that no kernel slides over rows of."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)

    def forward(self, words: Tensor) -> Tensor:
        return self.up(self.table(words).unflatten(1, (4, 2, 2)))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_rounding_serves_tables_and_transposed_convolutions(rounding: str) -> None:
    torch.manual_seed(0)
    model, words = _Decoder().eval(), torch.randint(20, (64,))
    own = Subject(model=model, example=(words[:2],), calibration=[(words, torch.zeros(64))])
    errors = {}
    for name in ("nearest", rounding):
        method = Weights(bits=3, rounding=name)
        graph, _ = method.apply(
            copy.deepcopy(model), method.plan(own, Workbench()), own, Workbench()
        )
        with torch.inference_mode():
            errors[name] = float((graph(words) - model(words)).square().mean())
    if rounding in ("nearest", "gptq"):  # there is nothing that columns could make up for
        assert errors[rounding] == errors["nearest"]
    else:
        assert errors[rounding] < errors["nearest"]


def test_a_rounding_by_data_asks_for_some(whole: Subject) -> None:
    without = dataclasses.replace(whole, calibration=())
    assert Weights(bits=4).plan(without, Workbench()).weights
    with pytest.raises(QuantizeError, match="rounding gptq has no calibration data"):
        Weights(bits=4, rounding="gptq").plan(without, Workbench())
