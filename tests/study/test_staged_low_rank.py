"""Both ways end at the same size; the verdict follows the paired differences."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from tersenet.data import Images
from tersenet.decompose import Factors
from tersenet.distill import Response
from tersenet.errors import MeasureError, StructureError
from tersenet.study import staged_low_rank as study
from tersenet.study.staged_low_rank import Staged, factor_in_rounds, study_staged_low_rank
from tersenet.train import Classification


def _images(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return Images(pixels=pixels, labels=labels, mean=(0.5,), std=(0.3,), name="noise")


TASK = Classification(train=_images(64, 0), test=_images(40, 1), batch_size=32, calibration=64)
TRAINING = Response(epochs=1, learning_rate=0.001)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 4),
    ).eval()


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_each_round_factors_and_trains_and_the_size_is_the_same(
    model: nn.Module, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = []
    kept = study.compress_copy

    def watched(method: Any, subject: Any) -> Any:
        after = kept(method, subject)
        chain: Any = cast("Any", after)[2]
        assert isinstance(chain, Factors)
        ranks.append((len(chain[0].weight), len(chain[1].weight)))
        return after

    monkeypatch.setattr(study, "compress_copy", watched)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    found = factor_in_rounds(TASK.subject(model), rounds=rounds, times=4.0, training=TRAINING)
    assert len(found.accuracy) == 2 * rounds
    assert ranks[::2] == ranks[1::2]  # training leaves them
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) == rounds
    one = factor_in_rounds(TASK.subject(model), rounds=1, times=4.0, training=TRAINING)
    assert found.params == one.params
    assert 3456 / (found.params - (160 + 24 + 388)) == pytest.approx(4, rel=0.1)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_the_study_measures_each_way_once(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"folder": tmp_path / "study", "seeds": 2, "epochs": 1.0, "times": 4.0}
    findings = study_staged_low_rank(model, TASK, **asked)
    (table,) = findings.tables
    assert [row[:2] for row in table.rows] == [
        (arm.name, seed) for arm in study.ARMS for seed in (0, 1)
    ]
    assert len({row[2] for row in table.rows}) == 1
    assert [row[5] is None for row in table.rows] == [True, True, False, False, True, True]
    monkeypatch.setattr(study, "factor_in_rounds", None)  # nothing is measured again
    assert study_staged_low_rank(model, TASK, **asked) == findings


@pytest.mark.parametrize(
    ("two", "long", "says"),
    [
        ((0.9, 0.91, 0.92), (0.8, 0.81, 0.82), ("holds", "holds")),
        ((0.9, 0.91, 0.92), (0.95, 0.96, 0.97), ("holds", "does not hold")),
        ((0.9, 0.7, 0.8), (0.7, 0.9, 0.8), ("undecided", "undecided")),
    ],
)
def test_verdicts_follow_the_paired_differences(
    two: tuple[float, ...], long: tuple[float, ...], says: tuple[str, str]
) -> None:
    one = (0.8, 0.805, 0.82)
    found = {
        arm.name: [Staged(params=10, accuracy=(0.1, value)) for value in own]
        for arm, own in zip(study.ARMS, (one, two, long), strict=True)
    }
    findings = study._findings(found, 100, 1.0, TASK)
    assert tuple(verdict.found for verdict in findings.claims) == says


def test_one_order_decides_nothing() -> None:
    found = {arm.name: [Staged(params=10, accuracy=(0.1, 0.5))] for arm in study.ARMS}
    findings = study._findings(found, 100, 1.0, TASK)
    assert {verdict.found for verdict in findings.claims} == {"undecided"}


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"epochs": 0.0}, {"times": 1.0}])
def test_settings_that_make_no_sense(model: nn.Module, tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(MeasureError, match="give at least one seed"):
        study_staged_low_rank(model, TASK, folder=tmp_path / "study", **wrong)
    assert not (tmp_path / "study").exists()


def test_a_network_with_nothing_to_factor_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with pytest.raises(StructureError, match="finds no layer"):
        study_staged_low_rank(model, replace(TASK), folder=tmp_path / "study", seeds=1, epochs=1.0)
