"""Whatever does not pay stays float, layer by layer or whole: on devices that are made up.

Each charges an operator of the runtime's own optimised graph, so what is timed is what would run.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto
from torch import Tensor, nn

from tersenet.core.types import Subject, Workbench
from tersenet.export import alike, in_float, kernels, to_onnx
from tersenet.export.runtime_kernels import INTEGER
from tersenet.measure import open_session
from tersenet.quantize import Auto, Static, auto, auto_plan
from tersenet.timing import files
from tersenet.timing.layer_times import time_layers
from tersenet.timing.plan import SCHEMES as TIMES


class _Net(nn.Module):
    """Two depthwise layers of one shape, pointwise ones, and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU())
        self.flat = nn.Conv2d(8, 8, 1)
        self.deeper = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.flat(self.deep(x))
        return self.head(self.deeper(x).mean([2, 3]))


@pytest.fixture(scope="module")
def whole() -> Subject:
    torch.manual_seed(0)
    batches = [(torch.randn(32, 2, 8, 8), torch.zeros(32)) for _ in range(2)]
    return Subject(model=_Net().eval(), example=(batches[0][0][:2],), calibration=batches)


SCHEMES = {"int8 per channel": Static(reduce_range=False)}
Charge = Callable[[NodeProto], float]
MadeUp = Callable[[Charge], Callable[..., Any]]


def _grouped(node: NodeProto) -> bool:
    return any(one.name == "group" and one.i > 1 for one in node.attribute)


def slow_depthwise(node: NodeProto) -> float:
    """Integers take half, but depthwise ones five times as long."""
    if node.op_type in INTEGER:
        return 5.0 if _grouped(node) else 0.5
    return 1.0 if node.op_type in ("Conv", "FusedConv", "Gemm") else 0.01


def slow_integers(node: NodeProto) -> float:
    """Integers take twice as long."""
    if node.op_type in INTEGER:
        return 2.0
    return 1.0 if node.op_type in ("Conv", "FusedConv", "Gemm") else 0.01


def fast_integers(node: NodeProto) -> float:
    """Integers take half."""
    return 0.5 * slow_integers(node) if node.op_type not in INTEGER else 0.1


def test_a_file_with_layers_in_float_computes_the_same(
    whole: Subject, made_up: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Static(reduce_range=False)
    graph, _ = settings.apply(
        copy.deepcopy(whole.model), settings.plan(whole, Workbench()), whole, Workbench()
    )
    converted = to_onnx(graph, whole.example, tmp_path / "int8.onnx")
    kinds = alike(converted)
    named = [sorted(kind.values()) for kind in kinds]
    assert named == [["stem.0"], ["deep.0", "deeper.0"], ["flat"], ["head"]]
    partly = tmp_path / "partly.onnx"
    partly.write_bytes(in_float(converted.proto, kinds[1]).SerializeToString())
    counts = kernels(partly).counts
    assert counts["QLinearConv"] == 2  # the depthwise ones are in float
    assert counts["QGemm"] == 1
    assert counts["Conv"] + counts.get("FusedConv", 0) == 2
    x = whole.calibration[0][0].numpy()
    ours, theirs = (open_session(tmp_path / f"{one}.onnx")(x)[0] for one in ("int8", "partly"))
    step = np.abs(ours).max() / 100
    assert np.abs(ours - theirs).max() <= 2 * step
    monkeypatch.setattr(files, "compare_many", made_up(slow_depthwise))
    times = time_layers(
        converted, tmp_path, deployment=whole.deployment, plan=TIMES, bench=Workbench()
    )
    assert [one.faster_in_float for one in times] == [False, True, False, False]
    # Each depthwise layer: 1 in float with a conversion at either end, for 5.
    assert times[1].float_ms == pytest.approx(1 + 0.02 - 5, abs=0.021)


def test_layers_that_are_faster_in_float_stay_so(
    whole: Subject, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "compare_many", made_up(slow_depthwise))
    monkeypatch.setattr(auto, "SCHEMES", SCHEMES)
    method = Auto(agreement=0.5)
    plan = method.plan(whole, Workbench())
    assert plan.left_float == ("deep.0", "deeper.0")
    assert {one.site: one.reason for one in plan.skips} == {
        "deep.0": "faster in float here",
        "deeper.0": "faster in float here",
    }
    assert "2 layers left in float" in plan.summary
    taken = [one for one in plan.trials if not one.reason]
    assert [one.scheme for one in taken] == [f"{plan.chosen}, 2 of its layers in float"]
    assert taken[0].speedup is not None
    assert taken[0].speedup > 1
    graph, edits = method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    assert {one.site for one in edits} == {"stem.0", "flat", "head"}
    again = method.replay(_Net().eval(), edits, whole.example)
    again.load_state_dict(graph.state_dict())
    x = whole.calibration[0][0]
    with torch.inference_mode():
        assert torch.equal(graph(x), again(x))


@pytest.mark.parametrize(("charge", "pays"), [(slow_integers, False), (fast_integers, True)])
def test_all_of_it_or_nothing(
    whole: Subject,
    made_up: MadeUp,
    monkeypatch: pytest.MonkeyPatch,
    charge: Charge,
    pays: bool,
) -> None:
    monkeypatch.setattr(files, "compare_many", made_up(charge))
    monkeypatch.setattr(auto, "SCHEMES", SCHEMES)
    method = Auto(agreement=0.5)
    plan = method.plan(whole, Workbench())
    assert plan.left_float == ()
    model = copy.deepcopy(whole.model)
    found, edits = method.apply(model, plan, whole, Workbench())
    assert (plan.chosen is not None) == pays
    assert (found is model) != pays
    assert bool(edits) == pays
    if not pays:
        assert plan.summary.startswith("stays float, 8 bits do not pay here (int8 per channel 0.")


def test_where_integers_do_not_pay_weights_alone_are_stored_small(
    whole: Subject, made_up: MadeUp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(files, "compare_many", made_up(slow_integers))
    monkeypatch.setattr(auto, "SCHEMES", SCHEMES)
    method = Auto(agreement=0.5, by_layer=False, stored_bits=8)
    plan = method.plan(whole, Workbench())
    assert plan.chosen is None
    assert "stays float, 8 bits do not pay here" in plan.summary
    assert "stored: 5 layers with 100.0 % of the weights to int8" in plan.summary
    stored, edits = method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    path = tmp_path / "stored.onnx"
    to_onnx(stored, whole.example, path)
    counts = kernels(path).counts
    assert not INTEGER & counts.keys()  # it computes in float
    x = whole.calibration[0][0]
    with torch.inference_mode():
        exact, found = whole.model(x), stored(x)
    # Each weight is within half a step, a 127th of its channel's largest: a small share of noise.
    assert 0 < (found - exact).norm() / exact.norm() < 0.02
    levels = [one for one in stored.state_dict().values() if one.dtype is torch.int8]
    weights = [one for name, one in whole.model.state_dict().items() if name.endswith("weight")]
    assert sum(one.numel() for one in levels) == sum(one.numel() for one in weights)
    again = method.replay(_Net().eval(), edits, whole.example)
    again.load_state_dict(stored.state_dict())
    with torch.inference_mode():
        assert torch.equal(found, again(x))


def test_schemes_that_are_one_on_this_processor_are_tried_once() -> None:
    seven = Static(reduce_range=True)
    eight = Static(reduce_range=False)
    ours = {"auto": Static(), "reduced": seven, "whole": eight}
    kept = list(auto._distinct(ours))
    assert kept == (["auto", "whole"] if Static().reduced else ["auto", "reduced"])


def test_stored_bits_and_layers_in_float_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="needs by_layer: false"):
        Auto(stored_bits=8)


@pytest.mark.parametrize(
    ("intervals", "chosen"),
    [
        ({"by channel": (2.08, 2.14), "by tensor": (2.10, 2.16)}, "by channel"),  # alike
        ({"by channel": (2.00, 2.05), "by tensor": (2.10, 2.16)}, "by tensor"),
        ({"by channel": (2.20, 2.25), "by tensor": (2.10, 2.16)}, "by channel"),
        ({}, None),
    ],
)
def test_a_scheme_gives_way_to_one_that_is_surely_faster(
    intervals: dict[str, tuple[float, float]], chosen: str | None
) -> None:
    trials = [
        auto_plan.SchemeTrial(
            scheme=name, speedup=sum(ends) / 2, interval=ends, agreement=1, file_bytes=1, reason=""
        )
        for name, ends in intervals.items()
    ]
    best = auto_plan.preferred(trials)
    assert (None if best is None else best.scheme) == chosen
