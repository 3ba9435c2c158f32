"""Pruning to a measured time: the choice against brute force, the budget against the clock."""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.errors import DataError, RecipeError, StructureError
from tersenet.export import to_onnx
from tersenet.graph import trace
from tersenet.models import resnet
from tersenet.prune import L1, LatencyAware, Taylor, file_time
from tersenet.prune.file_time import Counts, fit_to_time
from tersenet.prune.latency.gains import loss_gains, score_gains
from tersenet.prune.latency.plan import LatencyPlan
from tersenet.prune.latency.width_choice import widths_within
from tersenet.prune.latency_table import LatencyTable, kind_of
from tersenet.prune.width_costs import TableCosts, widths_of
from tersenet.recipe import read_recipe


class Concatenated(nn.Module):
    """Three layers read by one, as in densely connected networks."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(1, 4, 3, padding=1) for _ in range(3))
        self.join = nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([branch(x).relu() for branch in self.branches], 1)
        return self.head(self.join(joined).relu().mean((2, 3)))


def planted(model: nn.Module, example: torch.Tensor) -> tuple[TableCosts, dict[str, tuple]]:
    """Costs that are 1 + in · out for every layer, and three counts for each group."""
    graph = trace(model.eval(), (example,))
    options = {one.name: (one.size // 4 or 1, one.size // 2, one.size) for one in graph.groups}
    widths = range(1, 1 + max(max(site.layer.weight[:2]) for site in graph.sites))
    grid = {(reads, makes): 1.0 + reads * makes for reads in widths for makes in widths}
    table = LatencyTable(times={kind_of(site): grid for site in graph.sites})
    sizes = {one.name: one.size for one in graph.groups}
    return TableCosts(table, widths_of(graph, graph.groups), sizes), options


def worth_of(options: Mapping[str, tuple], seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: np.sort(generator.random(len(one))) for name, one in options.items()}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_widths_are_the_best_of_all_within_the_budget(share: float) -> None:
    costs, options = planted(resnet(depth=8, in_channels=1, width=4), torch.randn(2, 1, 8, 8))
    worth = worth_of(options, seed=int(10 * share))
    budget = share * costs.ms(costs.sizes)
    best = -1.0
    for choice in itertools.product(range(3), repeat=len(options)):
        picks = dict(zip(options, choice, strict=True))
        if costs.ms({name: options[name][i] for name, i in picks.items()}) <= budget:
            best = max(best, sum(worth[name][i] for name, i in picks.items()))
    found = widths_within(costs, options, worth, budget_ms=budget)
    assert costs.ms(found) <= budget
    value = sum(worth[name][options[name].index(n)] for name, n in found.items())
    assert value == pytest.approx(best, abs=1e-9)


def test_where_many_groups_meet_the_costs_settle_within_the_budget() -> None:
    costs, options = planted(Concatenated(), torch.randn(2, 1, 6, 6))
    whole, cheapest = costs.ms(costs.sizes), {name: one[0] for name, one in options.items()}
    for share in (0.5, 0.7, 0.9):
        found = widths_within(costs, options, worth_of(options, 0), budget_ms=share * whole)
        assert costs.ms(found) <= share * whole
        assert found != cheapest
    assert widths_within(costs, options, worth_of(options, 0), budget_ms=0.0) == cheapest


@pytest.mark.parametrize("asked", [0.3, 0.5, 0.9])
def test_the_budget_is_corrected_until_the_clock_agrees(asked: float) -> None:
    def choose(budget: float) -> Counts:
        return {"group": max(1, min(1000, int(1000 * budget)))}

    def estimate(counts: Counts) -> float:
        return counts["group"] / 1000

    trials = fit_to_time(
        choose, estimate, lambda counts: 0.2 + 0.8 * estimate(counts), asked=asked, attempts=6
    )
    assert 0.97 * asked <= trials[-1].share <= asked
    assert trials[-1].share == 0.2 + 0.8 * trials[-1].estimate
    assert len(trials) <= 6


def test_of_what_cannot_meet_the_budget_the_fastest_is_taken() -> None:
    trials = fit_to_time(
        lambda budget: {"group": 1 if budget < 0.2 else 2},
        lambda counts: counts["group"] / 10,
        lambda counts: 0.3 + counts["group"] / 10,
        asked=0.25,
        attempts=6,
    )
    assert trials[-1].share == pytest.approx(0.4)
    assert trials[-1].share > 0.25


def subject(width: int = 16) -> Subject:
    torch.manual_seed(0)
    model = resnet(depth=8, in_channels=1, classes=4, width=width).eval()
    inputs = torch.randn(16, 1, 16, 16)
    return Subject(
        model=model,
        example=(inputs[:2],),
        calibration=[(inputs, torch.randint(0, 4, (16,)))],
        original=model,
        deployment=Deployment(batches=(1,)),
    )


@pytest.fixture(scope="module")
def layers_timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The times of the subject's layers, measured once."""
    folder = tmp_path_factory.mktemp("timed")
    method = LatencyAware(latency=0.75, criterion=L1(), multiple_of=8, worth="score", attempts=1)
    method.plan(subject(), Workbench(folder=folder))
    return folder / "latency_table.json"


def test_planned_on_the_clock_and_kept(layers_timed: Path, tmp_path: Path) -> None:
    whole, bench = subject(), Workbench(folder=tmp_path)
    shutil.copy(layers_timed, tmp_path)
    method = LatencyAware(latency=0.75, criterion=L1(), multiple_of=8, attempts=3)
    plan = method.plan(whole, bench)
    assert plan == method.plan(whole, bench)  # of what was measured, which is kept
    assert plan.met == (plan.reached <= 0.75)
    assert (plan.tried[-1][1], plan.source) == (plan.reached, "measured")
    assert all(len(kept) % 8 == 0 for kept in plan.keep.values())
    assert plan.macs[1] < plan.macs[0]
    times = json.loads((tmp_path / "file_times.json").read_text())
    assert plan.reached in times.values()
    assert (tmp_path / "latency_table.json").read_text() == layers_timed.read_text()


def test_a_budget_that_nothing_meets_is_said(layers_timed: Path, tmp_path: Path) -> None:
    shutil.copy(layers_timed, tmp_path)
    method = LatencyAware(latency=0.01, criterion=L1(), multiple_of=8, worth="score", attempts=1)
    plan = method.plan(subject(), Workbench(folder=tmp_path))
    assert not plan.met
    assert plan.reached > 0.01
    assert "1 % asked, MISSED: the fastest of what was tried" in plan.summary


def test_what_will_be_quantised_is_estimated() -> None:
    whole = dataclasses.replace(subject(8), deployment=Deployment(precision="int8", batches=(1,)))
    method = LatencyAware(latency=0.8, criterion=L1(), multiple_of=4, worth="score", attempts=2)
    plan = method.plan(whole, Workbench())
    assert plan.source == "estimated"
    assert "estimated" in plan.summary
    assert all(estimate == reached for estimate, reached in plan.tried)


def test_worth_is_the_loss_with_a_group_alone_smaller() -> None:
    whole = subject(4)
    groups = trace(whole.model, whole.example).groups
    scores = L1().score(whole, groups)
    options = {group.name: (1, group.size) for group in groups}
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    worth = loss_gains(whole, groups, scores, options, whole.calibration, Workbench())
    inputs, targets = whole.calibration[0]
    trained = resnet(depth=8, in_channels=1, classes=4, width=4)
    trained.load_state_dict(before)
    with torch.no_grad():  # batch statistics of the same data are what training mode uses
        loss = nn.functional.cross_entropy(trained.train()(inputs), targets)
    for name in worth:
        # eval divides the variance by n - 1, training by n
        assert worth[name][-1] == pytest.approx(-float(loss), rel=0.02)
    assert len({float(one[0]) for one in worth.values()}) == len(groups)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_worth_by_score_is_the_sum_of_the_best() -> None:
    scores = {"a": torch.tensor([1.0, 5.0, 3.0])}
    assert score_gains(scores, {"a": (1, 2, 3)}, comparable=True)["a"].tolist() == [5, 8, 9]
    relative = score_gains(scores, {"a": (1, 3)}, comparable=False)["a"]
    assert relative.tolist() == pytest.approx([5 / 3, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "loudness"}, "there is no criterion 'loudness'"),
        ({"criterion": {"l1": {}, "l2": {}}}, "criterion must be one of"),
        ({"criterion": {"taylor": {"batches": 0}}}, "greater than 0"),
        ({"latency": 1.0}, "less than 1"),
        ({"latency": 0}, "greater than 0"),
        ({"batch": 0}, "greater than or equal to 1"),
        ({"worth": "money"}, "'loss' or 'score'"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(LatencyAware).validate_python(options)


def test_without_data_or_groups_it_says_what_to_do() -> None:
    bare = dataclasses.replace(subject(4), calibration=())
    with pytest.raises(DataError, match="set worth: score"):
        LatencyAware(criterion=L1(), multiple_of=None).plan(bare, Workbench())
    with pytest.raises(StructureError, match="finds no group to remove units from"):
        LatencyAware(criterion=L1(), skip=("*",)).plan(bare, Workbench())


def test_a_recipe_names_its_criterion(tmp_path: Path) -> None:
    method = LatencyAware(criterion=Taylor(batches=3), latency=0.5)
    adapter = TypeAdapter(LatencyAware)
    assert adapter.validate_python(adapter.dump_python(method, mode="json")) == method
    path = tmp_path / "recipe.yaml"
    text = "name: n\nsteps:\n  - prune:\n      latency-aware: {latency: 0.5, criterion: %s}\n"
    path.write_text(text % "{taylor: {batches: 3}}")
    assert read_recipe(path, own_network=True).steps == (method,)
    path.write_text(text % "{taylor: {batchs: 3}}")
    with pytest.raises(RecipeError, match=r"recipe.yaml:4: prune.latency-aware.criterion"):
        read_recipe(path, own_network=True)


def test_the_plan_can_be_read_back(tmp_path: Path) -> None:
    plan = LatencyPlan(
        criterion="l1", keep={"a": (0, 2)}, sizes={"a": 3}, asked=0.5, reached=0.49,
        source="measured", batch=1, tried=((0.5, 0.49),), params=(9, 6), macs=(90, 60),
    )  # fmt: skip
    adapter = TypeAdapter(LatencyPlan)
    assert adapter.validate_json(adapter.dump_json(plan)) == plan
    assert "takes 49.0 % of the original's time at batch 1, measured (50 % asked)" in plan.summary


def test_a_share_is_that_of_the_files(
    layers_timed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is timed is what ships: with bytes for a clock, the share is that of the two files."""

    def by_bytes(variant: Path, baseline: Path, **_: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(ratio=baseline.stat().st_size / variant.stat().st_size)]

    monkeypatch.setattr(file_time, "compare", by_bytes)
    whole = subject()
    method = LatencyAware(latency=0.6, criterion=L1(), multiple_of=8, worth="score", attempts=1)
    shutil.copy(layers_timed, tmp_path)
    plan = method.plan(whole, Workbench(folder=tmp_path))
    model, _ = method.apply(subject().model, plan, whole, Workbench())
    to_onnx(whole.model, whole.example, tmp_path / "whole.onnx")
    to_onnx(model, whole.example, tmp_path / "pruned.onnx")
    share = (tmp_path / "pruned.onnx").stat().st_size / (tmp_path / "whole.onnx").stat().st_size
    assert plan.reached == pytest.approx(share, abs=1e-5)
    assert share < 0.9
