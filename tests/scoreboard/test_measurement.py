"""Rows 52 to 57: clocks, counts, tables, recipes and what others can read."""

import time
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tersenet import graph, measure
from tersenet.core.findings import BoxChart
from tersenet.core.types import Deployment, Energy, Unmeasured
from tersenet.study import study_layer_vs_filter


def matrix_product(path: Path, width: int) -> Path:
    """An ONNX file of one matrix product, written by hand."""
    weight = np.random.default_rng(0).standard_normal((width, width)).astype(np.float32)
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weight, "w")],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(body, opset_imports=opset, ir_version=10), path)
    return path


def test_row_52_latency_harness(tmp_path: Path) -> None:
    """The latency harness.

    A sleep of 20 ms is measured within 5 %. Two files are timed in turns at batch 1, 8 and 64,
    at least 100 times each after a warm-up, on the threads asked for; p50, p95 and throughput
    are those of the samples; the smaller file is the faster.
    """
    slept = measure.time_callable(lambda: time.sleep(0.02), iterations=30, seconds=0)
    assert slept.p50_ms == pytest.approx(20, rel=0.05)

    large, small = (matrix_product(tmp_path / f"{width}.onnx", width) for width in (1024, 128))
    deployment = Deployment(batches=(1, 8, 64), threads=1)
    found = measure.compare(small, large, deployment=deployment, iterations=100, seconds=0)
    assert [one.batch for one in found] == [1, 8, 64]
    for one in found:
        for latency in (one.own, one.baseline):
            assert len(latency.samples_ms) >= 100
            assert latency.warmup > 0
            assert latency.threads == 1
            ordered = sorted(latency.samples_ms)
            assert ordered[0] <= latency.p50_ms <= latency.p95_ms <= ordered[-1]
            assert latency.throughput == pytest.approx(1e3 * one.batch / latency.p50_ms)
        assert 1 < one.low <= one.ratio <= one.high


def test_row_53_cost_report(tmp_path: Path) -> None:
    """MACs, parameters, memory and energy.

    Five kinds of layers against the formulas by hand; the memory of a fresh process grows with
    the weights it holds; energy is joules from a counter, or not measured, and says why.
    """
    height, width = 10, 12
    cases = {
        "conv2d": (nn.Conv2d(6, 8, 3, stride=2, padding=1), 5 * 6 * 8 * 6 * 9, 6 * 8 * 9 + 8),
        "grouped": (nn.Conv2d(6, 8, 3, padding=1, groups=2), 120 * 8 * 3 * 9, 3 * 8 * 9 + 8),
        "depthwise": (nn.Conv2d(6, 6, 5, padding=2, groups=6), 120 * 6 * 25, 6 * 25 + 6),
        "pointwise": (nn.Conv2d(6, 9, 1, bias=False), 120 * 6 * 9, 6 * 9),
        "linear": (nn.Sequential(nn.Flatten(), nn.Linear(720, 7)), 720 * 7, 720 * 7 + 7),
    }
    for name, (model, macs, params) in cases.items():
        example = (torch.randn(2, 6, height, width),)
        assert graph.macs(model, example) == macs, name
        assert sum(layer.params for layer in graph.layers(model, example)) == params, name

    light, heavy = (matrix_product(tmp_path / f"{width}.onnx", width) for width in (64, 4096))
    memory = [measure.peak_memory(one, deployment=Deployment()) for one in (light, heavy)]
    assert isinstance(memory[0], int)
    assert isinstance(memory[1], int)
    weights = 4 * 4096**2
    assert 0.8 * weights < memory[1] - memory[0] < 4 * weights

    energy = measure.energy_per_inference(light, deployment=Deployment(), seconds=0.2)
    if isinstance(energy, Energy):
        assert energy.joules > 0
        assert "RAPL" in energy.source
    else:
        assert isinstance(energy, Unmeasured)
        assert energy.reason
    nowhere = measure.energy_per_inference(
        light, deployment=Deployment(), seconds=0.2, root=tmp_path / "no counters"
    )
    assert isinstance(nowhere, Unmeasured)
    assert "no counters" in nowhere.reason


@pytest.mark.not_built
def test_row_54_tables_and_figures(tmp_path: Path) -> None:
    """The first deck's tables 1 and 2 and its figures 7 to 9, and a Pareto plot.

    All are made again from a file of results.
    """
    study = import_module("tersenet.study")
    made = study.first_deck(study.read_results(tmp_path), folder=tmp_path)
    assert made.keys() == {"table 1", "table 2", "figure 7", "figure 8", "figure 9", "pareto"}
    assert all(path.stat().st_size for path in made.values())


@pytest.mark.in_part("3 + 3 networks; what reaches further, tersenet study layer-vs-filter says")
def test_row_55_random_models(tmp_path: Path) -> None:
    """The smoke test of 100 filter-pruned and 100 layer-pruned random networks.

    A box plot of the latency saved, mean and deviation of the accuracy; removing layers reaches
    further than removing filters.
    """
    recipe = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
    found = study_layer_vs_filter(
        recipe, folder=tmp_path, models=3, batches=(1,), steps=0, iterations=10, criteria=()
    )
    (plot,) = (chart for chart in found.charts if isinstance(chart, BoxChart))
    assert {box.group: len(box.values) for box in plot.boxes} == {"filter": 3, "layer": 3}
    (accuracy,) = (one for one in found.tables if one.name == "accuracy-by-latency")
    assert accuracy.rows
    # Which reaches further is for the whole study to say: so few networks decide nothing.
    assert {one.found for one in found.claims} <= {"undecided"}
    assert found.claims


@pytest.mark.not_built
def test_row_56_schedules(tmp_path: Path) -> None:
    """The schedule engine.

    A recipe says when a method acts: at which epochs, how often. A bad file is refused with the
    number of its line; a killed run resumes to the same bits.
    """
    recipe = import_module("tersenet.recipe")
    schedule = recipe.Schedule(first=2, last=10, every=3)
    assert [epoch for epoch in range(14) if schedule.acts(epoch)] == [2, 5, 8]
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nsteps:\n  - prune.l1: {when: {evry: 3}}\n")
    with pytest.raises(import_module("tersenet.errors").RecipeError, match=r"bad\.yaml:3"):
        recipe.read_recipe(path)


@pytest.mark.not_built
def test_row_57_export_for_others(tmp_path: Path) -> None:
    """TensorBoard, CSV and ONNX.

    Each file loads in a reader that is not ours.
    """
    export = import_module("tersenet.export")
    model, example = nn.Sequential(nn.Linear(4, 2)), (torch.zeros(1, 4),)
    export.to_events(tmp_path / "events", [{"step": 0, "loss": 1.0}])
    export.to_csv(tmp_path / "history.csv", [{"step": 0, "loss": 1.0}])
    export.to_onnx(model, example, tmp_path / "model.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"))
    assert np.genfromtxt(tmp_path / "history.csv", delimiter=",", names=True)["loss"] == 1
