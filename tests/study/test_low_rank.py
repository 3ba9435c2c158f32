"""Low rank timed: what each chain promises by count, why others are left out, and verdicts."""

import pytest

from tersenet.study import low_rank as study
from tersenet.study.layer_shape import LayerShape
from tersenet.study.low_rank import FORMS, claims, measure, study_low_rank

LINEAR = LayerShape(name="linear", inputs=256, outputs=256)
DEPTHWISE = LayerShape(name="depthwise", inputs=16, outputs=16, kernel=3, pixels=6, groups=16)


def test_promises_are_those_of_arithmetic() -> None:
    """A linear layer's m n weights become r (m + n) of SVD, each used once; the bias stays."""
    found = {one["form"]: one for one in measure(LINEAR, 32.0, 3, 0.0)}
    svd = found["SVD, k×k then 1×1"]
    (rank,) = svd["ranks"]
    assert svd["theoretical"] == pytest.approx(256 * 256 / (rank * (256 + 256)))
    assert svd["params"] == pytest.approx((256 * 256 + 256) / (rank * (256 + 256) + 256))
    assert svd["params"] >= 32 > (256 * 256 + 256) / ((rank + 1) * (256 + 256) + 256)
    assert "use svd" in found["Tucker-2"]["reason"]
    timed = [one for one in found.values() if one["reason"] is None]
    assert {one["form"] for one in timed} >= {"SVD, k×k then 1×1", "tensor train"}
    for one in timed:
        assert one["ms"] > 0 < one["measured"][1] <= one["measured"][0] <= one["measured"][2]


def point(form: str, measured: float, theoretical: float = 3.0, **other: object) -> dict:
    timed = {"measured": [measured, 0.9 * measured, 1.1 * measured], "theoretical": theoretical}
    own = {"layer": "3×3", "wide": True, "rate": 4.0, "batch": 1, "form": form, "reason": None}
    return {**own, **timed, **other}


def test_verdicts_follow_the_intervals() -> None:
    promise, wide, excluded = claims([point("a", 2.0), point("b", 0.8), point("a", 4.0, batch=8)])
    assert (promise.found, wide.found) == ("does not hold", "holds")
    assert "less than by count in 2 of 3 points, surely more in 1;" in promise.evidence
    assert "faster in 2 of 2 cases, 2.00 to 4.00 times" in wide.evidence  # the best form of each
    assert excluded.found == "undecided"
    promise, wide, _ = claims([point("a", 1.05, 1.1)])  # neither is sure
    assert (promise.found, wide.found) == ("holds", "does not hold")
    skipped = {"layer": "depthwise 3×3", "form": "a", "reason": "is depthwise"}
    small = point("a", 0.9, layer="1×1", wide=False)
    excluded = claims([skipped, small])[2]
    assert excluded.found == "holds"
    assert "of the 1 chains in place of 1×1 layers 1 are not surely faster" in excluded.evidence
    assert claims([point("a", 2.0, layer="depthwise")])[2].found == "does not hold"


def test_the_study_keeps_its_points_and_tells_why_not(tmp_path, monkeypatch) -> None:
    told = []
    asked = {"layers": [DEPTHWISE], "times": (2.0,), "batches": (1,), "seconds": 0.0}
    asked |= {"folder": tmp_path / "study", "tick": lambda *one: told.append(one)}
    findings = study_low_rank(**asked)
    assert told == [("depthwise, 2 times fewer, batch 1", 0, 1)]
    (table,) = findings.tables
    assert [row[2] for row in table.rows] == list(FORMS)
    assert all(row[6] is None for row in table.rows)
    assert sum("depthwise" in row[-1] for row in table.rows) == len(FORMS) - 1
    assert findings.charts == ()
    assert findings.claims[2].found == "holds"
    monkeypatch.setattr(study, "measure", None)  # nothing is measured again
    assert study_low_rank(**asked) == findings


def test_layers_of_1x1_that_gain_speak_against_the_claim() -> None:
    own = {"rate": 4, "batch": 1, "wide": False, "theoretical": 4.0, "form": "SVD"}
    none = {**own, "layer": "depthwise", "reason": "is depthwise"}
    small = {**own, "layer": "1×1 256→256", "reason": None}
    faster, slower = ({**small, "measured": [r, r - 0.1, r + 0.1]} for r in (2.0, 0.9))
    assert claims([none, faster, faster, slower])[2].found == "does not hold"
    assert claims([none, faster, slower, slower])[2].found == "holds"
