"""Unstructured sparsity timed: candidates that compute the same, and verdicts on figures."""

from pathlib import Path

import numpy as np
import pytest

from tersenet.errors import MeasureError
from tersenet.study.folder import StudyFolder
from tersenet.study.layer_shape import LayerShape
from tersenet.study.unstructured_speed import (
    DENSE,
    MASKED,
    OURS,
    candidates,
    claims,
    prune_and_round,
    study_unstructured_speed,
)

LINEAR = LayerShape(name="linear", outputs=48, inputs=80)
CONVOLUTION = LayerShape(name="convolution", outputs=8, inputs=6, kernel=3, pixels=7)


@pytest.mark.parametrize("layer", [LINEAR, CONVOLUTION], ids=["linear", "convolution"])
@pytest.mark.parametrize("batch", [1, 3])
def test_all_sparse_candidates_compute_what_dense_with_zeros_does(layer, batch):
    calls, _ = candidates(layer, 0.8, batch)
    expected = calls[MASKED]().numpy()
    np.testing.assert_allclose(calls[OURS](), expected, atol=1e-4)
    for name in set(calls) - {DENSE, MASKED, OURS}:
        found = np.asarray(calls[name]())  # (output, sample · place)
        shaped = found.reshape(layer.outputs, batch, *expected.shape[2:]).swapaxes(0, 1)
        np.testing.assert_allclose(shaped, expected, atol=1e-4, err_msg=name)
    assert np.abs(calls[DENSE]().numpy() - expected).max() > 0.1


@pytest.mark.parametrize("zeros", [0.3, 0.9, 0.99])
def test_pruning_keeps_the_largest_and_few_values(zeros):
    dense = np.random.default_rng(0).standard_normal((100, 200)).astype(np.float32)
    found = prune_and_round(dense, zeros)
    assert (found == 0).mean() == pytest.approx(zeros, abs=1e-3)
    assert len(np.unique(found)) <= 31
    assert np.abs(dense[found == 0]).max() <= np.abs(dense[found != 0]).min()
    assert (np.sign(found) * np.sign(dense) >= 0).all()


def point(zeros, masked, csr, ours):
    """Ratios with their intervals: ± 2 %."""
    ratios = {DENSE: 1.0, MASKED: masked, "PyTorch CSR": csr / 2, "SciPy CSR": csr, OURS: ours}
    speedup = {name: [r, 0.98 * r, 1.02 * r] for name, r in ratios.items()}
    return {"layer": "a", "batch": 1, "zeros": zeros, "speedup": speedup}


def test_verdicts_follow_the_intervals():
    points = [point(0.3, 1.0, 0.2, 1.0), point(0.6, 0.95, 0.4, 1.4), point(0.9, 1.05, 1.3, 3.0)]
    alone, rows, general = claims(points)
    assert (alone.found, rows.found, general.found) == ("holds", "holds", "does not hold")
    assert "Between 0.95 and 1.05" in alone.evidence
    assert "slower than dense in 2 of 2" in rows.evidence
    assert "90 % zeros at batch 1 (a)." in rows.evidence
    assert "faster than dense in 2 of 3 points" in general.evidence
    assert "Faster from: 60 % zeros at batch 1 (a)." in general.evidence
    alone, rows, general = claims([point(0.3, 1.2, 1.5, 0.5), point(0.9, 1.0, 0.9, 0.6)])
    assert (alone.found, rows.found, general.found) == ("does not hold", "does not hold", "holds")
    assert "nowhere" in general.evidence
    alone, *_ = claims([point(0.3, 1.09, 0.5, 1.0)])  # from 1.07 to 1.11
    assert alone.found == "undecided"
    _, rows, general = claims([point(0.3, 1.0, 1.0, 1.0)])
    assert (rows.found, general.found) == ("undecided", "undecided")


def test_a_study_measures_each_point_once(tmp_path, monkeypatch):
    def run():
        return study_unstructured_speed(
            folder=tmp_path / "study",
            tick=lambda *told: told_of.append(told),
            layers=(LINEAR,),
            zeros=(0.5, 0.99),
            batches=(1,),
            seconds=0.01,
        )

    told_of = []
    found = run()
    assert [number for _, number, _ in told_of] == [0, 1]
    assert len(found.tables[0].rows) == 2
    (chart,) = found.charts
    assert {series.name for series in chart.series} >= {MASKED, OURS}
    assert all(low <= y <= high for s in chart.series for low, y, high in
               zip(s.low, s.y, s.high, strict=True))  # fmt: skip

    def kept(self, key, measure):
        assert key in self, f"{key} is measured again"
        return original(self, key, measure)

    original = StudyFolder.point
    monkeypatch.setattr(StudyFolder, "point", kept)
    assert run() == found


def test_no_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="seconds is -1"):
        study_unstructured_speed(folder=tmp_path, tick=lambda *_: None, seconds=-1)
    assert not list(tmp_path.iterdir())
