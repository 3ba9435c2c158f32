"""Pruning to a measured time: the choice against brute force, the budget against the clock."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.errors import DataError, RecipeError, StructureError
from tersenet.export import to_onnx
from tersenet.graph import trace
from tersenet.models import resnet
from tersenet.prune import L1, LatencyAware, LatencyPlan, Taylor
from tersenet.prune.latency.gains import loss_gains, score_gains
from tersenet.recipe import read_recipe
from tersenet.timing.cache import use_cache
from tersenet.timing.files import FileTimer


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
    whole = subject()
    method = LatencyAware(latency=0.75, criterion=L1(), multiple_of=8, worth="score", attempts=1)
    with use_cache(on=False):
        method.plan(whole, Workbench(folder=folder))
    for path in (folder / "timings").glob("*.json"):
        if "files" in json.loads(path.read_text())["key"]["layer"]:
            path.unlink()
    return folder / "timings"


def test_planned_on_the_clock_and_kept(layers_timed: Path, timings: Path) -> None:
    whole, bench = subject(), Workbench()
    shutil.copytree(layers_timed, timings, dirs_exist_ok=True)
    method = LatencyAware(latency=0.75, criterion=L1(), multiple_of=8, attempts=3)
    plan = method.plan(whole, bench)
    assert plan == method.plan(whole, bench)  # of what was measured, which is kept
    assert plan.met == (plan.reached <= 0.75)
    assert (plan.tried[-1][1], plan.source) == (plan.reached, "measured")
    assert all(len(kept) % 8 == 0 for kept in plan.keep.values())
    assert plan.macs[1] < plan.macs[0]
    files = {path.name: path.read_bytes() for path in timings.glob("*.json")}
    layers = {path.name: path.read_bytes() for path in layers_timed.glob("*.json")}
    assert layers.items() < files.items()  # no layer was timed again
    assert len(files) == len(layers) + len(plan.tried)


def test_a_budget_that_nothing_meets_is_said(layers_timed: Path, timings: Path) -> None:
    shutil.copytree(layers_timed, timings, dirs_exist_ok=True)
    method = LatencyAware(latency=0.01, criterion=L1(), multiple_of=8, worth="score", attempts=1)
    plan = method.plan(subject(), Workbench())
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
    layers_timed: Path, tmp_path: Path, timings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is timed is what ships: with bytes for a clock, the share is that of the two files."""

    def file_bytes(model: nn.Module) -> int:
        to_onnx(model, subject().example, tmp_path / "model.onnx")
        return (tmp_path / "model.onnx").stat().st_size

    monkeypatch.setattr(
        FileTimer,
        "share",
        lambda self, model: file_bytes(model) / file_bytes(self.baseline),
    )
    whole = subject()
    method = LatencyAware(latency=0.6, criterion=L1(), multiple_of=8, worth="score", attempts=1)
    shutil.copytree(layers_timed, timings, dirs_exist_ok=True)
    plan = method.plan(whole, Workbench())
    model, _ = method.apply(subject().model, plan, whole, Workbench())
    assert plan.reached == file_bytes(model) / file_bytes(whole.model)
    assert plan.reached < 0.9
