"""Liked counts: the rule on given costs, and measured once for each kind of layer."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.graph import trace
from tersenet.measure.rounds import Rounds
from tersenet.models import resnet
from tersenet.prune import L1, Channels
from tersenet.timing import staircase
from tersenet.timing.staircase import (
    Probe,
    Stair,
    Staircase,
    counts_to_time,
    measure_stairs,
)
from tersenet.timing.writer import LayerKind

DEPLOYMENT = Deployment(batches=(1, 4))


def _probe(size: int) -> Probe:
    return Probe(LayerKind((3, 3), (8, 8)), size, DEPLOYMENT)


def _exact(probe: Probe, cost: Callable[[int], float]) -> Staircase:
    """What measuring without any noise would give: a bound is the ratio to the cheapest larger."""
    counts, steps = counts_to_time(probe.size), []
    for count in counts:
        larger = [cost(count) / cost(more) for more in counts if more > count]
        own = cost(count)
        steps.append(
            Stair(count=count, cost=own, interval=(own, own), bound=max(larger, default=0.0))
        )
    return Staircase(of=probe.key, ms=1.0, macs=probe.macs, steps=tuple(steps))


@pytest.mark.parametrize(
    ("costs", "liked"),
    [
        # blocks of 16: 12 costs what 16 does
        ({4: 0.4, 8: 0.6, 12: 1.0, 16: 1.0}, (4, 8, 16)),
        ({4: 1.4, 8: 1.2, 12: 1.1, 16: 1.0}, (16,)),  # fewer is slower
        ({4: 0.5, 8: 0.45, 12: 0.8, 16: 1.0}, (8, 12, 16)),
    ],
)
def test_liked_counts_cost_less_than_every_larger_one(
    costs: dict[int, float], liked: tuple[int, ...]
):
    assert _exact(_probe(16), costs.__getitem__).liked == liked


def test_a_difference_within_the_noise_is_none(monkeypatch):
    """Rounds of made-up times: 8 is 30 % cheaper, 4 no cheaper than 8 but by chance."""
    random = np.random.default_rng(0)
    base = {"4": 0.695, "8": 0.7, "12": 1.0, "16": 1.0, staircase._AGAIN: 1.0}

    def timed(files, deployment):
        noise = {name: 1 + 0.05 * random.random((20, 5)) for name in files}
        return [
            Rounds(
                order=(tuple(files),) * 20,
                slices_ms={
                    name: tuple(map(tuple, (base[name] * noise[name]).tolist())) for name in files
                },
                warmup=1,
            )
            for _ in deployment.batches
        ]

    monkeypatch.setattr(staircase, "_timed", timed)
    stairs = staircase._measure(_probe(16))
    assert stairs.liked == (8, 16)
    assert stairs.cost(8) == pytest.approx(0.7, abs=0.02)
    # six layers in the chain, batches of 1 and 4
    assert stairs.ms == pytest.approx((1 / 6 + 1 / 24) / 2, rel=0.05)
    assert stairs.macs == 9 * 8 * 8 * 16 * 16


@pytest.mark.parametrize(("int8", "precision"), [(0.7, "int8"), (1.0, "fp32"), (1.3, "fp32")])
def test_the_faster_precision_is_asked_where_either_may_ship(int8, precision, monkeypatch):
    model, subject = _model()
    graph, asked = trace(model, subject.example), []
    deployment = dataclasses.replace(subject.deployment, precision="either")

    def timed(files, deployment):
        asked.append(set(files))
        times = {"fp32": ((1.0, 1.0),) * 9, "int8": ((int8, int8),) * 9}
        return [Rounds(order=(), slices_ms=times, warmup=1) for _ in deployment.batches]

    monkeypatch.setattr(staircase, "_timed", timed)
    bench = Workbench()
    for _ in range(2):  # kept: a resumed run decides alike
        found = staircase.decide_precision(graph.groups, graph.sites, deployment, bench)
        assert found.precision == precision
    assert len(asked) == 1
    assert asked[0] == {"fp32", "int8"}


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
    assert counts_to_time(size) == expected


def _model(width: int = 8) -> tuple[torch.nn.Module, Subject]:
    model = resnet(depth=8, width=width)
    example = torch.zeros(2, 3, 8, 8)
    return model, Subject(model=model, example=(example,), deployment=Deployment(batches=(1, 2)))


def test_one_measurement_for_each_kind_kept_for_resuming(timings: Path, monkeypatch):
    model, subject = _model()
    graph, measured = trace(model, subject.example), []

    def measure(probe: Probe) -> Staircase:
        measured.append(probe)
        return _exact(probe, lambda count: count / probe.size)

    monkeypatch.setattr(staircase, "_measure", measure)
    bench = Workbench()
    first = measure_stairs(graph.groups, graph.sites, subject.deployment, bench)
    # 8 channels at 8x8, 16 at 4x4, 32 at 2x2
    assert sorted((one.size, one.layer.positions) for one in measured) == [
        (8, (8, 8)),
        (16, (4, 4)),
        (32, (2, 2)),
    ]
    assert len(first) == len(graph.groups) == 6
    assert measure_stairs(graph.groups, graph.sites, subject.deployment, bench) == first
    assert len(measured) == 3
    (torn, *_) = timings.glob("*.json")
    torn.write_text("{ torn")
    assert measure_stairs(graph.groups, graph.sites, subject.deployment, bench) == first
    assert len(measured) == 4
    assert len(list(timings.glob("*.json"))) == 3


def test_no_stage_is_cut_to_a_quarter_for_a_few_percent(monkeypatch):
    """As timed on a processor with 256-bit vectors: of 16 channels, 4 took 8 % less time, 8 and 12
    none; wider layers went down in blocks of 8."""
    _, subject = _model(width=16)

    def measure(probe: Probe) -> Staircase:
        if probe.size == 16:
            return _exact(probe, lambda count: 0.92 if count == 4 else 1.0)
        return _exact(probe, lambda count: (-(-count // 8) * 8 / probe.size) ** 2)

    monkeypatch.setattr(staircase, "_measure", measure)
    plan = Channels(criterion=L1(), keep=0.6).plan(subject, Workbench())
    kept = {(plan.sizes[name], len(units)) for name, units in plan.keep.items()}
    assert {count for size, count in kept if size == 16} == {16}
    assert min(count / size for size, count in kept if size > 16) < 0.7


def test_plans_keep_to_what_was_measured(monkeypatch):
    _, subject = _model()

    def blocks_of_16(probe: Probe) -> Staircase:
        return _exact(probe, lambda count: -(-count // 16) * 16 / probe.size)

    monkeypatch.setattr(staircase, "_measure", blocks_of_16)
    plan = Channels(criterion=L1(), keep=0.6, scope="layer").plan(subject, Workbench())
    kept = {(plan.sizes[name], len(units)) for name, units in plan.keep.items()}
    # blocks of 16: 8 and 16 cannot shrink, 32 halves
    assert kept == {(8, 8), (16, 16), (32, 16)}
    assert plan.reached > plan.requested
    assert f"{100 * plan.reached:.1f} %" in plan.summary
    assert {stairs.liked for stairs in plan.staircases} == {(8,), (16,), (16, 32)}


def test_really_measured_costs_rise_with_the_work():
    stairs = staircase._measure(_probe(64))
    assert stairs.cost(64) == 1
    assert stairs.cost(8) < 0.5  # a 64th of the work
    assert stairs.ms > 0
