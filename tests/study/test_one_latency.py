"""Layers and filters by one criterion at one latency, the front of all networks, and table 3."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersenet.core.files import save_tensors
from tersenet.core.findings import Claim
from tersenet.core.types import Deployment, Subject
from tersenet.errors import MeasureError, RecipeError
from tersenet.graph import macs
from tersenet.models import resnet, vgg_small
from tersenet.study import study_layer_vs_filter
from tersenet.study.layer_vs_filter.bench import LayerBench
from tersenet.study.layer_vs_filter.claims import claim_at_one_latency
from tersenet.study.layer_vs_filter.one_latency import (
    WITHIN,
    keep_matched,
    measure_pair,
    table_pairs,
)
from tersenet.study.layer_vs_filter.pareto import front, table_pareto
from tersenet.study.layer_vs_filter.published import PUBLISHED, table_published
from tersenet.train import TASKS

IMAGES = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
NUMBER = st.integers(0, 6).map(float)


def work_as_time(bench: Any, model: torch.nn.Module) -> list[list[float]]:
    """A clock that counts multiply-accumulates, so that what must be found is known."""
    reduction = 100 * (1 - macs(model, bench.example) / bench.whole_macs)
    return [[reduction, reduction, reduction]]


@pytest.fixture
def subject() -> Subject:
    torch.manual_seed(0)
    model = resnet(depth=14, in_channels=1).eval()
    return Subject(model=model, example=(IMAGES[:2],))


@pytest.fixture
def bench(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> LayerBench:
    def measured(self: LayerBench, model: torch.nn.Module) -> dict[str, Any]:
        widths = {one.out_channels for one in model.modules() if isinstance(one, torch.nn.Conv2d)}
        return {"reduction": self.time(model), "macs_removed": 0.0, "accuracy": len(widths)}

    monkeypatch.setattr(LayerBench, "time", work_as_time)
    monkeypatch.setattr(LayerBench, "measure", measured)
    return LayerBench(
        task=TASKS["fashion-mnist"](train_images=128, test_images=8, calibration=8),
        example=subject.example,
        deployment=Deployment(),
        steps=0,
        whole=Path("unused.onnx"),
        whole_macs=macs(subject.model, subject.example),
    )


def test_filters_go_until_both_are_equally_fast(subject: Subject, bench: LayerBench):
    for criterion in ("l1", "bn-scale"):
        found = measure_pair(criterion, 2, subject, bench)
        layer, narrow = found["layer"]["reduction"][0][0], found["filter"]["reduction"][0][0]
        assert layer > 10
        assert abs(layer - narrow) <= WITHIN
        assert keep_matched([found]) == [found]
        assert table_pairs([found]).rows[0][-1] == "yes"


def test_a_criterion_with_nothing_to_judge_says_why(bench: LayerBench):
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, padding=1)
    )
    found = measure_pair("bn-scale", 1, Subject(model=plain.eval(), example=(IMAGES[:2],)), bench)
    assert set(found) == {"criterion", "reason"}


def made(layer: float, narrow: float, *, apart: float = 0.0) -> dict[str, Any]:
    def one(accuracy: float, reduction: float) -> dict[str, Any]:
        return {"reduction": [[reduction] * 3], "accuracy": accuracy, "macs_removed": 30.0}

    return {"criterion": "l1", "layer": one(layer, 20.0), "filter": one(narrow, 20.0 + apart)}


def verdict(pairs: list[Mapping[str, Any]]) -> Claim:
    return claim_at_one_latency(keep_matched(pairs), len(pairs))


def test_the_verdict_follows_the_pairs_of_one_latency():
    level = [made(90.0 + i / 10, 90.1) for i in range(6)]
    assert verdict([*level]).found == "holds"
    assert verdict([made(88.0 + i / 10, 90.0) for i in range(6)]).found == "does not hold"
    assert verdict([made(88.5 + i, 90.5) for i in range(5)]).found == "undecided"
    assert verdict([*level[:4]]).found == "undecided"
    # Pairs that are not equally fast say nothing, however clear.
    apart = [made(50.0, 90.0, apart=WITHIN + 0.1) for _ in range(9)]
    assert verdict([*level, *apart]).found == "holds"
    assert "6 of 15 pairs" in verdict([*level, *apart]).evidence
    assert verdict([*apart]).found == "undecided"


@given(st.lists(st.tuples(NUMBER, NUMBER), max_size=12))
def test_the_front_is_what_brute_force_finds(points: list[tuple[float, float]]):
    def beaten(own: tuple[float, float]) -> bool:
        return any(other[0] >= own[0] and other[1] >= own[1] and other != own for other in points)

    found = front(points)
    assert sorted(found) == [place for place, own in enumerate(points) if not beaten(own)]
    assert [points[place] for place in found] == sorted((points[i] for i in found), reverse=True)


def test_designed_networks_stand_among_the_others():
    shown = table_pareto(
        {
            "filter": [made(90.0, 80.0)["layer"], made(95.0, 80.0)["layer"]],
            "designed by hand": [{**made(94.0, 0.0, apart=30.0)["filter"], "name": "slow"}],
            "layer": [],
        }
    )
    assert [row[:2] for row in shown.rows] == [("designed by hand", "slow"), ("filter", "1")]


def test_table_three_has_its_22_rows():
    assert len(PUBLISHED) == len(table_published().rows) == 22
    assert sum(one.shallower for one in PUBLISHED) == 14
    assert {one.name for one in PUBLISHED if one.preset} == {
        "channel pruning",
        "ThiNet",
        "HRank 2.6x",
    }
    assert [one.name for one in PUBLISHED if one.other_device] == ["ECC"]
    # What the deck reads off it: HRank gains with the batch size, seven layers less do not.
    rank, seven = PUBLISHED[-2:]
    assert (rank.reductions[:2], seven.reductions[:2]) == ((11.89, 36.09), (44.26, 41.01))


RECIPE = (
    "name: tiny\nmodel: {resnet: {depth: 8, in_channels: 1}}\nweights: weights\n"
    "data: {fashion-mnist: {train_images: 128, test_images: 20, calibration: 8}}\n"
    "steps: [{prune: l1}]\n"
)
TRAINING = (
    "name: by-hand\nmodel: {vgg-small: {in_channels: 1}}\n"
    "data: {fashion-mnist: {train_images: 128}}\ntraining: {epochs: 1, learning_rate: 0.1}\n"
    "output: other\n"
)


def test_the_study_compares_by_criterion_and_beside_designed_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe, training = tmp_path / "recipe.yaml", tmp_path / "training.yaml"
    recipe.write_text(RECIPE)
    training.write_text(TRAINING)
    save_tensors(tmp_path / "weights", resnet(depth=8, in_channels=1).state_dict())
    monkeypatch.setattr(LayerBench, "time", work_as_time)
    monkeypatch.setattr(LayerBench, "time_file", lambda *_: [[0.0, 0.0, 0.0]])

    def run() -> Any:
        return study_layer_vs_filter(
            recipe,
            folder=tmp_path / "study",
            models=1,
            batches=(1,),
            steps=0,
            criteria=("l1",),
            beside=(training,),
        )

    with pytest.raises(MeasureError, match="do not exist: run 'tersenet train"):
        run()
    save_tensors(tmp_path / "other", vgg_small(in_channels=1).state_dict())
    found = run()
    assert len(found.claims) == 6
    (pairs,) = (one for one in found.tables if one.name == "one-criterion-one-latency")
    assert {row[0] for row in pairs.rows} == {"l1"}
    plot = next(one for one in found.charts if one.title == "Accuracy against latency")
    assert {"filter", "layer", "designed by hand"} < {one.name for one in plot.series}
    monkeypatch.delattr(LayerBench, "time")  # all is kept: nothing is measured again
    assert run() == found


def test_unknown_criteria_and_recipes_are_refused(tmp_path: Path):
    with pytest.raises(MeasureError, match="'magic' is no criterion"):
        study_layer_vs_filter(tmp_path / "r.yaml", folder=tmp_path / "study", criteria=("magic",))
    (tmp_path / "r.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError, match=r"none\.yaml"):
        study_layer_vs_filter(
            tmp_path / "r.yaml", folder=tmp_path / "study", beside=(tmp_path / "none.yaml",)
        )
