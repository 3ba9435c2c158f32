"""Liked counts: the rule on given costs, the probes on the runtime, the cache."""

import numpy as np
import onnx
import pytest
import torch

from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.graph import trace
from tersenet.measure.runtimes import open_session
from tersenet.measure.times import read_times
from tersenet.models.resnet_cifar import resnet
from tersenet.prune import L1, Staircase, staircase, staircases
from tersenet.prune.probe import Probe, write_probe

SETTINGS = {"runtime": "onnxruntime", "threads": 1, "batches": (1, 4)}


@pytest.mark.parametrize(
    ("costs", "liked"),
    [
        # blocks of 16: 12 costs what 16 does
        ({4: 0.4, 8: 0.6, 12: 0.98, 16: 1.0}, (4, 8, 16)),
        ({8: 0.94, 12: 0.96, 16: 1.0}, (16,)),  # 8 does not save 5 % on 12, nor 12 on 16
        ({8: 1.4, 12: 1.2, 16: 1.0}, (16,)),  # fewer is slower
        ({8: 0.5, 16: 0.45, 24: 0.8, 32: 1.0}, (16, 24, 32)),
    ],
)
def test_liked_counts_save_on_every_larger_one(costs: dict[int, float], liked: tuple[int, ...]):
    stairs = Staircase(
        kind="conv", precision="fp32", steps=tuple(sorted(costs.items())), **SETTINGS
    )
    assert stairs.liked == liked


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (6, (1, 2, 3, 4, 5, 6)),
        (16, (4, 8, 12, 16)),
        (30, (4, 8, 12, 16, 20, 24, 28, 30)),
        (64, tuple(range(8, 65, 8))),
        (512, tuple(range(64, 513, 64))),
    ],
)
def test_candidates(size: int, expected: tuple[int, ...]):
    assert staircase.candidates(size) == expected


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5,), ()])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_probes_run_as_the_chain_they_stand_for(kernel, precision: str, tmp_path):
    positions = (6, 5)[: len(kernel)]
    probe = Probe(kernel=kernel, positions=positions, size=8, precision=precision, **SETTINGS)
    path = tmp_path / "probe.onnx"
    write_probe(probe, 8, path)
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    session = open_session(path, runtime="onnxruntime", threads=1)
    x = np.random.default_rng(1).normal(size=(3, 8, *positions)).astype(np.float32)
    (found,) = session({session.inputs[0].name: x})
    expected = torch.tensor(x)
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    for name in sorted(stored.keys() & {f"w{i}" for i in range(9)}):
        weight = torch.tensor(stored[name])
        if kernel:
            layer = (torch.nn.functional.conv1d, torch.nn.functional.conv2d)[len(kernel) - 1]
            expected = layer(expected, weight, padding=kernel[0] // 2).relu()
        else:
            expected = torch.nn.functional.linear(expected, weight).relu()
    if precision == "fp32":
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    else:
        assert {one.op_type for one in model.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
        assert found.shape == x.shape
        # levels of 0.03, and not all in the same end of the range
        assert np.allclose(found / 0.03, np.round(found / 0.03), atol=1e-3)
        assert len(np.unique(found)) > 3


def test_int8_probes_run_on_integer_kernels(tmp_path):
    import onnxruntime

    probe = Probe(kernel=(3, 3), positions=(6, 6), size=16, precision="int8", **SETTINGS)
    write_probe(probe, 16, tmp_path / "probe.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        tmp_path / "probe.onnx", options, providers=["CPUExecutionProvider"]
    )
    kinds = [one.op_type for one in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    assert kinds.count("QLinearConv") == 6
    assert "Conv" not in kinds


def _model() -> tuple[torch.nn.Module, Subject]:
    model = resnet(depth=8, width=8)
    example = torch.zeros(2, 3, 8, 8)
    return model, Subject(model=model, example=(example,), deployment=Deployment(batches=(1, 2)))


def test_one_measurement_for_each_kind_kept_for_resuming(tmp_path, monkeypatch):
    model, subject = _model()
    graph, measured = trace(model, subject.example), []

    def measure(probe: Probe) -> dict[str, float]:
        measured.append(probe)
        return {str(one): one / probe.size for one in staircase.candidates(probe.size)}

    monkeypatch.setattr(staircase, "_measure", measure)
    bench = Workbench(folder=tmp_path)
    first = staircases(graph.groups, graph.sites, subject.deployment, bench)
    # 8 channels at 8x8, 16 at 4x4, 32 at 2x2
    assert sorted((one.size, one.positions) for one in measured) == [
        (8, (8, 8)),
        (16, (4, 4)),
        (32, (2, 2)),
    ]
    assert len(first) == len(graph.groups) == 6
    assert staircases(graph.groups, graph.sites, subject.deployment, bench) == first
    assert len(measured) == 3
    (tmp_path / "staircase.json").write_text("{ torn")
    assert staircases(graph.groups, graph.sites, subject.deployment, bench) == first
    assert len(measured) == 6
    assert len(read_times(tmp_path / "staircase.json")) == 3


def test_plans_keep_to_what_was_measured(monkeypatch):
    _, subject = _model()

    def blocks_of_16(probe: Probe) -> dict[str, float]:
        counts = staircase.candidates(probe.size)
        return {str(one): -(-one // 16) * 16 / probe.size for one in counts}

    monkeypatch.setattr(staircase, "_measure", blocks_of_16)
    plan = L1(keep=0.6, scope="layer").plan(subject, Workbench())
    kept = {(plan.sizes[name], len(units)) for name, units in plan.keep.items()}
    # blocks of 16: 8 and 16 cannot shrink, 32 halves
    assert kept == {(8, 8), (16, 16), (32, 16)}
    assert plan.reached > plan.requested
    assert f"{100 * plan.reached:.1f} %" in plan.summary
    assert {stairs.liked for stairs in plan.staircases} == {(8,), (16,), (16, 32)}


def test_really_measured_costs_rise_with_the_work():
    wide = Probe(kernel=(3, 3), positions=(8, 8), size=64, precision="fp32", **SETTINGS)
    costs = staircase._measure(wide)
    assert costs["64"] == 1
    assert costs["8"] < 0.5  # a 64th of the work
