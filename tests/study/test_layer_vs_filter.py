"""The study of layers against filters: draws, figures, verdicts, and going on after a stop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tersenet.core.files import save_tensors
from tersenet.errors import MeasureError
from tersenet.models import resnet
from tersenet.study import study_layer_vs_filter
from tersenet.study.layer_vs_filter.bench import LayerBench
from tersenet.study.layer_vs_filter.bins import gather_bins, latency_reduction
from tersenet.study.layer_vs_filter.claims import claims
from tersenet.study.layer_vs_filter.random_models import RandomModels

IMAGE = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def test_latency_reduction_has_the_sign_and_value_of_the_definition():
    assert latency_reduction(8.0, 10.0) == pytest.approx(20)
    assert latency_reduction(10.0, 10.0) == 0
    assert latency_reduction(12.5, 10.0) == pytest.approx(-25)


def widths(model: nn.Module) -> list[int]:
    return [one.out_channels for one in model.modules() if isinstance(one, nn.Conv2d)]


def test_draws_are_of_their_kind_and_repeat():
    model = resnet(depth=14, in_channels=1).eval()
    drawn = RandomModels(model, (IMAGE,), least_share=0.5)
    whole = widths(model)
    seen = set()
    for number in range(2):
        narrow, shallow = drawn.draw("filter", number), drawn.draw("layer", number)
        assert len(widths(narrow)) == len(whole)
        assert all(
            old / 2 - 1 <= new <= old for new, old in zip(widths(narrow), whole, strict=True)
        )
        assert len(widths(shallow)) < len(whole)
        assert set(widths(shallow)) == {16, 32, 64}
        again = drawn.draw("filter", number)
        assert torch.equal(again(IMAGE), narrow(IMAGE))
        seen.add(tuple(widths(narrow)))
    assert len(seen) == 2
    assert set(widths(drawn.furthest("filter"))) == {1}
    assert len(widths(drawn.furthest("layer"))) == len(whole) - 8
    assert widths(model) == whole


Points = Mapping[str, Sequence[Mapping[str, Any]]]


def point(reductions: Sequence[float], accuracy: float) -> dict[str, Any]:
    parts = [[one, one - 1, one + 1] for one in reductions]
    return {"reduction": parts, "macs_removed": 50.0, "accuracy": accuracy}


def found_of(points: Points) -> dict[str, str]:
    limits = {"filter": 50.0, "layer": 90.0}
    found = claims(points, gather_bins(points), limits, batches=(1, 64))
    keys = ("reach", "slower", "depends", "steadier", "better")
    return {key: one.found for key, one in zip(keys, found, strict=True)}


def test_verdicts_follow_the_figures():
    wobble = [-4.0, 4.0, -3.0, 3.0, 0.0] * 3
    filters = [point((20, -10), 80 + one) for one in wobble]
    layers = [point((25, 25), 88 + one / 10) for one in wobble] + [point((60, 60), 70.0)]
    assert found_of({"filter": filters, "layer": layers}) == {
        "reach": "holds",
        "slower": "holds",
        "depends": "holds",
        "steadier": "holds",
        "better": "holds",
    }
    turned = [point((one["reduction"][0][0], 15), one["accuracy"]) for one in filters]
    swapped = found_of({"filter": layers, "layer": turned})
    assert set(swapped.values()) == {"does not hold"}


def test_few_models_and_bins_apart_decide_nothing():
    filters = [point((20, 20), 80.0 + i) for i in range(4)]
    layers = [point((45, 45), 90.0 - i) for i in range(4)]
    assert set(found_of({"filter": filters, "layer": layers}).values()) == {"undecided"}
    found = found_of({"filter": 4 * filters, "layer": 4 * layers})
    assert found["steadier"] == found["better"] == "undecided"


def test_bins_hold_what_lies_between_their_ends():
    points = {
        "filter": [point((-0.1,), 10.0), point((10.0,), 30.0), point((19.9,), 50.0)],
        "layer": [point((10.1,), 70.0)],
    }
    below, above = gather_bins(points)
    assert (below.low, below.high, below.values["filter"]) == (-10, 0, (10.0,))
    assert above.mean("filter") == 40
    assert above.deviation("filter") == pytest.approx(200**0.5)
    assert above.values["layer"] == (70.0,)
    assert not above.shared


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = tmp_path / "recipe.yaml"
    save_tensors(tmp_path / "weights", resnet(depth=8, in_channels=1).state_dict())
    recipe.write_text(
        "name: tiny\nmodel: {resnet: {depth: 8, in_channels: 1}}\nweights: weights\n"
        "data: {fashion-mnist: {train_images: 128, test_images: 20, calibration: 8}}\n"
        "steps: [{prune: l1}]\n"
    )
    calls = []

    def times(*_: Any) -> list[list[float]]:
        calls.append(len(calls))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return [[10.0, 9.0, 11.0]]

    monkeypatch.setattr(LayerBench, "time_file", times)
    ticks = []

    def run() -> Any:
        return study_layer_vs_filter(
            recipe,
            folder=tmp_path / "study",
            models=2,
            batches=(1,),
            steps=0,
            criteria=(),
            tick=lambda text, done, total: ticks.append((text, done, total)),
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    findings = run()
    # The network itself, the furthest of each kind, four models; one of them twice.
    assert len(calls) == 8
    assert ticks[-1] == ("model 2, layers pruned", 3, 4)
    table = next(one for one in findings.tables if one.name == "models")
    assert [row[:2] for row in table.rows] == [
        ("filter", 0),
        ("filter", 1),
        ("layer", 0),
        ("layer", 1),
    ]
    assert len(findings.claims) == 5


def test_nothing_to_measure_is_refused(tmp_path: Path):
    with pytest.raises(MeasureError, match="0 models, batch sizes"):
        study_layer_vs_filter(tmp_path / "recipe.yaml", folder=tmp_path / "study", models=0)
