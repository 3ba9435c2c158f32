"""The front as a study: what the computation gives, kept once, with the claim that follows."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet.data import Images
from tersenet.errors import MeasureError
from tersenet.study import rate_distortion as study
from tersenet.study.rate_distortion import RateDistortionFront, RatePoint, study_rate_distortion
from tersenet.train import Classification


def _images(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return Images(pixels=pixels, labels=labels, mean=(0.5,), std=(0.3,), name="noise")


TASK = Classification(train=_images(200, 0), test=_images(50, 1), batch_size=50)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 4)).eval()


def test_the_study_tells_what_was_computed_and_keeps_it(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = study_rate_distortion(model, TASK, folder=tmp_path, images=64)
    seen, unseen = (
        [x for x, _ in part.batches(128)]
        for part in (TASK.train.head(64), TASK.train.tail(64).head(64))
    )
    front = study.trace_front(model, calibration=seen, held_out=unseen)
    rows = tuple((p.lam, p.bits, p.divergence, p.uniform) for p in front.points)
    assert found.tables[0].rows == rows
    assert len(found.charts[0].series[1].x) == 2 * len(study.UNIFORM)
    monkeypatch.setattr(study, "trace_front", None)  # nothing is computed again
    assert study_rate_distortion(model, TASK, folder=tmp_path, images=64) == found


def point(divergence: float, uniform: float | None) -> RatePoint:
    return RatePoint(lam=0.1, bits=3.0, divergence=divergence, uniform=uniform)


@pytest.mark.parametrize(
    ("points", "found"),
    [
        ((point(0.1, 0.2), point(0.2, 0.2), point(9.0, None)), "holds"),
        ((point(0.1, 0.2), point(0.3, 0.2)), "does not hold"),
        ((point(0.1, None),), "undecided"),
    ],
)
def test_the_claim_follows_the_points_beside_uniform_steps(
    points: tuple[RatePoint, ...], found: str
) -> None:
    front = RateDistortionFront(points=points, uniform=((3.0, 0.2),), kl_over_quadratic=(1.0,))
    (claim,) = study._findings(front, 64).claims
    assert claim.found == found


def test_no_images_are_refused(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="images is 0"):
        study_rate_distortion(model, TASK, folder=tmp_path / "study", images=0)
    assert not (tmp_path / "study").exists()
