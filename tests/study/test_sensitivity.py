"""Sensitivity: every point there once, as measured by hand; rates under the bound."""

import copy
import csv
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional

from tersenet.core.types import Workbench
from tersenet.data import Images
from tersenet.errors import MeasureError, RunError
from tersenet.prune import Magnitude
from tersenet.study import write_findings
from tersenet.study.sensitivity import study_sensitivity
from tersenet.train import Classification, TopOne, TrainingOptions, fit


def images(count: int, name: str, seed: int) -> Images:
    """Ten classes, told apart by which pixels are bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    pixels = torch.randint(0, 160, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    pixels.view(count, 64).scatter_(1, 6 * labels[:, None] + torch.arange(3), 255)
    return Images(pixels=pixels, labels=labels, mean=(0.3,), std=(0.2,), name=name)


TASK = Classification(train=images(600, "train", 0), test=images(200, "test", 1), batch_size=50)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    options = TrainingOptions(epochs=6, learning_rate=0.05)
    return fit(model, TASK.stream, lambda m, x, y: functional.cross_entropy(m(x), y), options)


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_point_is_there_and_as_measured_by_hand(model: nn.Module, tmp_path: Path) -> None:
    before = copy.deepcopy(model.state_dict())
    folder = tmp_path / "study"
    findings = study_sensitivity(model, TASK, folder=folder, images=200, max_drop=5)
    write_findings(folder, findings)
    points = rows(folder, "sensitivity")
    assert len(points) == 20 * (3 + 3 + 2)  # the first layer has a single input channel
    assert {one["granularity"] for one in points} == {"element", "filter", "channel"}
    assert sorted({float(one["sparsity"]) for one in points}) == pytest.approx(
        [0.05 * index for index in range(20)]
    )
    judge = TopOne(TASK.train.head(200))
    whole = TASK.subject(model)
    for kind, site in (("element", "0"), ("filter", "2"), ("channel", "5")):
        found = next(
            one for one in points
            if (one["granularity"], one["site"], one["sparsity"]) == (kind, site, "0.5")
        )  # fmt: skip
        method = Magnitude(sparsity=0.5, scope="layer", pattern=kind, only=(site,))
        plan = method.plan(whole, Workbench())
        masked, _ = method.apply(copy.deepcopy(model), plan, whole, Workbench())
        assert float(found["top-1 %"]) == pytest.approx(100 * judge(masked).value)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert {chart.title.split()[0] for chart in findings.charts} == {"Accuracy", "One"}


def test_rates_cost_no_more_than_the_bound(model: nn.Module, tmp_path: Path) -> None:
    findings = study_sensitivity(
        model, TASK, folder=tmp_path, images=200, max_drop=5, granularity=("element",)
    )
    write_findings(tmp_path, findings)
    points = rows(tmp_path, "sensitivity")
    for row in rows(tmp_path, "rates"):
        rate, own = float(row["element"]), [one for one in points if one["site"] == row["site"]]
        assert all(float(one["drop"]) <= 5 for one in own if float(one["sparsity"]) <= rate)
        first_over = min(
            (float(one["sparsity"]) for one in own if float(one["drop"]) > 5), default=1.0
        )
        assert rate < first_over <= rate + 0.0600001
    # The step that the study writes down is one that a recipe takes.
    text = next(note for note in findings.notes if note.startswith("As a step"))
    options = yaml.safe_load(text.partition(": ")[2])["prune"]["magnitude"]
    assert Magnitude(**options).rates.keys() == {"0", "2", "5"}
    (allocations,) = [table for table in findings.tables if table.name == "allocations"]
    assert allocations.columns == ("sparsity", "layer", "global", "erk", "sensitivity")


def test_it_goes_on_where_it_was_killed(model: nn.Module, tmp_path: Path) -> None:
    def tick(text: str, done: int, total: int) -> None:
        if done == 25:
            raise KeyboardInterrupt

    options = {"folder": tmp_path, "images": 60, "granularity": ("filter",)}
    with pytest.raises(KeyboardInterrupt):
        study_sensitivity(model, TASK, tick=tick, **options)
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 25
    findings = study_sensitivity(model, TASK, **options)
    after = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert after[:25] == lines
    assert len(after) == 60
    other = study_sensitivity(model, TASK, folder=tmp_path / "at once", images=60,
                        granularity=("filter",))  # fmt: skip
    assert other == findings
    with pytest.raises(RunError, match="another images"):
        study_sensitivity(model, TASK, folder=tmp_path, images=61, granularity=("filter",))


@pytest.mark.parametrize("options", [{"images": 0}, {"max_drop": -1.0}])
def test_nothing_to_judge_by_is_said(
    model: nn.Module, tmp_path: Path, options: dict[str, float]
) -> None:
    with pytest.raises(MeasureError, match="give at least one image"):
        study_sensitivity(model, TASK, folder=tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()
