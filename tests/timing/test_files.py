"""Whole files in turns: what is compared with what, and each structure timed once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tersenet.core.types import Deployment, Device, Latency, Speedup, Workbench
from tersenet.timing import files
from tersenet.timing.files import FileTimer
from tersenet.timing.plan import FILE

EXAMPLE = (torch.zeros(2, 3, 8, 8),)


def network(width: int, stride: int = 1, scale: float = 2.0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=stride),
        nn.Upsample(scale_factor=scale),
        nn.Conv2d(width, 16, 1),
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `compare_many` is asked: a file takes a millisecond for each byte that it has."""
    calls: list[dict[str, Any]] = []
    device = Device(cpu="made up", cores=1, memory_bytes=1, isa=(), system="none")

    def latency(path: Path, batch: int) -> Latency:
        samples = (float(path.stat().st_size), 1e9, 1e9)
        return Latency(
            samples_ms=samples, batch=batch, threads=1, runtime="made up", device=device,
            load_average=0.0, warmup=1,
        )  # fmt: skip

    def compare_many(paths: Mapping[str, Path], *, deployment: Deployment, **plan: Any) -> Any:
        calls.append({"names": list(paths), "batches": deployment.batches, **plan})
        first = next(iter(paths.values()))
        return {
            name: tuple(
                Speedup(
                    batch=batch,
                    ratio=first.stat().st_size / path.stat().st_size,
                    low=0.9,
                    high=1.1,
                    baseline=latency(first, batch),
                    own=latency(path, batch),
                )
                for batch in deployment.batches
            )
            for name, path in paths.items()
        }

    monkeypatch.setattr(files, "compare_many", compare_many)
    return calls


def test_a_network_is_timed_beside_its_baseline_as_long_as_is_planned(asked: list) -> None:
    timer = FileTimer(network(32), EXAMPLE, Deployment(), 4, Workbench())
    (whole,), (half,) = timer.time(network(32)), timer.time(network(16))
    assert (whole.ratio, whole.batch) == (1.0, 4)
    assert half.ratio > 1.5
    assert timer.share(network(16)) == round(1 / half.ratio, 5)
    facts = {"batches": (4,), "iterations": FILE.iterations, "seconds": FILE.seconds}
    assert asked == 2 * [{"names": ["baseline", "0"], **facts}]


def test_each_structure_is_timed_once_whatever_its_weights(asked: list) -> None:
    timer = FileTimer(network(32), EXAMPLE, Deployment(), 1, Workbench())
    first = timer.time(network(12))
    assert timer.time(network(12)) == first
    assert FileTimer(network(32), EXAMPLE, Deployment(), 1, Workbench()).time(network(12)) == first
    assert len(asked) == 1
    timer.time(network(12, stride=2))
    timer.time(network(13))
    timer.time(network(13, scale=3.0))
    FileTimer(network(31), EXAMPLE, Deployment(), 1, Workbench()).time(network(12))
    FileTimer(network(32), EXAMPLE, Deployment(), 2, Workbench()).time(network(12))
    assert len(asked) == 6
    timer.time(network(12), network(13))  # three in turns are another measurement
    assert len(asked) == 7


def test_networks_that_are_to_be_made_are_made_one_by_one(asked: list) -> None:
    timer = FileTimer(network(32), EXAMPLE, Deployment(), 1, Workbench())
    found = timer.time(*(lambda width=width: network(width) for width in (8, 16, 24)))
    assert [speedup.ratio for speedup in found] == sorted(
        (speedup.ratio for speedup in found), reverse=True
    )
    assert asked[0]["names"] == ["baseline", "0", "1", "2"]
