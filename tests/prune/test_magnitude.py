"""Magnitude pruning: thresholds, shares, scopes, and what it refuses."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from tersenet.core.types import EditKind, Subject, Workbench
from tersenet.errors import DataError, StructureError
from tersenet.prune import Magnitude
from tersenet.prune.masks.allocation import erk


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip


def subject(model: nn.Module) -> Subject:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(16, 3, 6, 6, generator=generator)
    return Subject(
        model=model,
        example=(inputs[:2],),
        calibration=[(inputs, model(inputs).argmax(1))],
        loss=lambda out, target: functional.cross_entropy(out, target, reduction="sum"),
    )


def masked(model: nn.Module, **options: object) -> nn.Module:
    whole, method = subject(model), Magnitude(**options)
    plan = method.plan(whole, Workbench())
    return method.apply(copy.deepcopy(model), plan, whole, Workbench())[0]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach() for name, one in model.named_parameters() if one.ndim > 1}


def zeros(model: nn.Module) -> dict[str, int]:
    return {name: int((one == 0).sum()) for name, one in weights(model).items()}


def test_global_zeroes_exactly_the_least_weights_of_the_network() -> None:
    model = network()
    every = torch.cat([one.flatten().abs() for one in weights(model).values()])
    bound = every.sort().values[round(0.8 * len(every)) - 1]
    for name, one in weights(masked(model, sparsity=0.8)).items():
        dense = weights(model)[name]
        assert torch.equal(one, torch.where(dense.abs() <= bound, 0, dense))
    assert sum(zeros(masked(model, sparsity=0.8)).values()) == round(0.8 * len(every))


def test_han_thresholds_are_deviations_of_each_layer() -> None:
    model = network()
    for name, one in weights(masked(model, deviations=0.7)).items():
        dense = weights(model)[name]
        assert torch.equal(one == 0, dense.abs() <= 0.7 * dense.std())
    for name, one in weights(masked(model, threshold=0.03)).items():
        assert torch.equal(one == 0, weights(model)[name].abs() <= 0.03)


def test_shares_by_layer_by_erk_and_by_rates() -> None:
    model = network()
    sizes = {name: one.numel() for name, one in weights(model).items()}
    assert zeros(masked(model, sparsity=0.75, scope="layer")) == {
        name: size * 3 // 4 for name, size in sizes.items()
    }
    shares = erk({name: tuple(one.shape) for name, one in weights(model).items()}, 0.6)
    for name, count in zeros(masked(model, sparsity=0.6, scope="erk")).items():
        assert count - 1 < shares[name] * sizes[name] <= count + 1e-6
    found = zeros(masked(model, rates={"0": 0.25, "3*": 0.5, "*": 0.1}))
    assert list(found.values()) == [108, 2304, 16]
    assert list(zeros(masked(model, rates={"0": 0.25})).values()) == [108, 0, 0]


def test_sensitivity_spares_the_layer_that_costs_most() -> None:
    model = network()
    # Nobody reads the outputs of half of the large layer, and its weights are small: they can go.
    model[3].weight.data[16:] *= 1e-3
    model[6].weight.data[:, 16:] = 0
    whole = subject(model)
    uniform = zeros(masked(model, sparsity=0.45, scope="layer"))
    found = zeros(masked(model, sparsity=0.45, scope="sensitivity"))
    assert sum(found.values()) == pytest.approx(0.45 * 5200, abs=3)
    assert found["3.weight"] > uniform["3.weight"]
    assert found["0.weight"] < 0.5 * uniform["0.weight"]
    assert all(torch.equal(one, weights(model)[name]) for name, one in weights(whole.model).items())


def test_of_kept_counts_what_is_left() -> None:
    model = network()
    sizes = sum(one.numel() for one in weights(model).values())
    left = sizes
    for _ in range(3):
        model = masked(model, sparsity=0.2, of="kept")
        left -= -(-left // 5)
        assert sum(zeros(model).values()) == sizes - left
    assert zeros(masked(model, sparsity=0.3)) == zeros(model)  # more than that is zero already


def test_every_layer_keeps_a_unit() -> None:
    model = network()
    model[6].weight.data *= 1e-6
    found = zeros(masked(model, sparsity=0.9, pattern="filter"))
    assert found["6.weight"] == 4 * 32
    assert found["0.weight"] < 16 * 27
    assert zeros(masked(model, sparsity=0.999, scope="layer", only=("0",)))["0.weight"] == 431


def test_edits_name_the_weights_and_say_that_they_are_stored() -> None:
    whole = subject(network())
    method = Magnitude(sparsity=0.5, scope="layer", skip=("6",))
    plan = method.plan(whole, Workbench())
    _, edits = method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    assert [(edit.site, edit.kind) for edit in edits] == [
        ("0.weight", EditKind.MASK),
        ("3.weight", EditKind.MASK),
    ]
    assert edits[0].before == "0.00 % zero"
    assert edits[0].after == "50.00 % zero by element, still stored"
    assert "50.00 % of 5,040 weights in 2 layers become zero" in plan.summary
    assert "all 5,285 parameters are still stored" in plan.summary


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sparsity": 1.0}, "less than 1"),
        ({"sparsity": 0.0}, "greater than 0"),
        ({"rates": {"0": 1.0}}, "less than 1"),
        ({}, "give one of sparsity, threshold, deviations and rates"),
        ({"sparsity": 0.5, "threshold": 0.1}, "give one of sparsity"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "n:m says the sparsity itself"),
        ({"threshold": 0.5, "scope": "erk"}, "scope and of say what sparsity is of"),
        ({"sparsity": 0.5, "scope": "erk", "of": "kept"}, "of: kept needs scope"),
        ({"pattern": "4:2"}, "n must be at least 1 and below m"),
        ({"pattern": "4:4"}, "n must be at least 1 and below m"),
        ({"pattern": 124}, "put it in quotes, '2:4'"),  # what YAML makes of 2:4
        ({"pattern": "kernels"}, "it must be one of element, vector, kernel"),
        ({"pattern": [4, 0], "sparsity": 0.5}, "greater than or equal to 1"),
    ],
)
def test_bad_options_are_said(options: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Magnitude(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"sparsity": 0.5, "only": ("fc",)},
            "'fc' in only of prune magnitude matches none",
        ),
        (
            {"sparsity": 0.5, "skip": ("fc",)},
            "'fc' in skip of prune magnitude matches none",
        ),
        ({"rates": {"fc": 0.5}}, "'fc' in rates of prune magnitude matches none"),
        ({"threshold": 9.0}, "would zero all 432 units of '0': lower it, or add the site to skip"),
        ({"sparsity": 0.5, "skip": ("*",)}, "finds no weight to mask by element: '0': in skip"),
    ],
)
def test_what_cannot_be_done_is_said(options: dict[str, object], says: str) -> None:
    with pytest.raises(StructureError, match=says):
        masked(network(), **options)


def test_sensitivity_without_data_is_said() -> None:
    model = network()
    whole = Subject(model=model, example=(torch.randn(2, 3, 6, 6),))
    with pytest.raises(DataError, match="no calibration data"):
        Magnitude(sparsity=0.5, scope="sensitivity").plan(whole, Workbench())
