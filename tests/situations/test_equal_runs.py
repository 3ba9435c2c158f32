"""Two runs of one recipe, on machines of which one is busy: they differ in timings alone."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tersenet.cli.show import show_outcome
from tersenet.core.types import (
    Budget,
    Deployment,
    Latency,
    Outcome,
    Speedup,
    Status,
    StepRecord,
    Subject,
    Unmeasured,
    Workbench,
)
from tersenet.measure import describe_device
from tersenet.quantize import Static
from tersenet.recipe import read_recipe
from tersenet.report import render
from tersenet.run import Origin, RunSummary, header_of, measurement, step_to_json
from tersenet.run.verdict import judge

FACTS = {"name": "quantize static", "proofs": (), "notes": ("of the plan",), "seconds": 0.0}


def timed(ms: float, original_ms: float) -> tuple[Speedup, ...]:
    """A file of `ms` milliseconds beside an original of `original_ms`, beyond doubt."""
    own, other = (
        Latency(
            samples_ms=(one, one), batch=1, threads=1, runtime="onnxruntime",
            device=describe_device(), load_average=0.0, warmup=1,
        )
        for one in (ms, original_ms)
    )  # fmt: skip
    ratio = original_ms / ms
    return (
        Speedup(
            batch=1, ratio=ratio, low=0.99 * ratio, high=1.01 * ratio, baseline=other, own=own
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def integers() -> Subject:
    """A small network whose weights and activations are integers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    images = torch.randn(32, 1, 8, 8)
    subject = Subject(
        model=model,
        example=(images[:1],),
        calibration=[(images, torch.zeros(32, dtype=torch.int64))],
        deployment=Deployment(batches=(1,), iterations=1, seconds=0),
    )
    method = Static()
    plan = method.plan(subject, Workbench())
    graph, _ = method.apply(copy.deepcopy(model), plan, subject, Workbench())
    return replace(subject, model=graph)


@pytest.fixture
def measured(
    integers: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, StepRecord]:
    """The same step twice: once its file was faster than the original's, once slower."""
    monkeypatch.setattr(measurement, "peak_memory", lambda *_, **__: Unmeasured("not asked for"))
    monkeypatch.setattr(
        measurement, "energy_per_inference", lambda *_, **__: Unmeasured("not asked for")
    )

    def record(ms: float) -> StepRecord:
        monkeypatch.setattr(measurement, "compare", lambda *_, **__: timed(ms, 1.0))
        return measurement.measure(
            integers, tmp_path, baseline=tmp_path / "model.onnx", files={}, root=tmp_path,
            facts=FACTS, tick=lambda *_: None,
        )  # fmt: skip

    return {"fast": record(0.5), "slow": record(2.0)}


def untimed(record: StepRecord) -> dict[str, Any]:
    value = step_to_json(record)
    del value["speedups"], value["cost"]["latency"]
    return value


def test_records_differ_in_their_timings_alone(measured: dict[str, StepRecord]) -> None:
    assert untimed(measured["fast"]) == untimed(measured["slow"])
    assert measured["fast"].speedups != measured["slow"].speedups


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_what_is_slower_is_still_told(
    measured: dict[str, StepRecord], capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    told = "slower than the original in the same runtime (0.50x at batch 1)"
    record = measured[kind]
    original = replace(record, name="original", int8_share=None, speedups=timed(1.0, 1.0))
    steps = (original, record)
    outcome = Outcome(
        model=nn.Identity(), status=Status.UNCHANGED, steps=steps, advice="", folder=tmp_path,
        chosen=1,
    )  # fmt: skip
    show_outcome(outcome, json=False)
    shown = capsys.readouterr().out
    show_outcome(outcome, json=True)
    listed = capsys.readouterr().out
    page = render(summary(steps))
    for text in (shown, listed, page):
        assert text.count(told) == (kind == "slow")
        assert "of the plan" in text


def summary(steps: tuple[StepRecord, ...]) -> RunSummary:
    recipe = read_recipe(Path("recipes/smoke.yaml"))
    origin = Origin(
        network="resnet", weights="", training_data="", test_data="", task={}, answers=()
    )  # fmt: skip
    return RunSummary(
        header=header_of(recipe, command="tersenet compress", origin=origin),
        steps=steps,
        verdict=judge(steps, Budget(), seconds=1.0),
    )
