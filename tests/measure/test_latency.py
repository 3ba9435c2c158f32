import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet.core.types import Deployment, Latency
from tersenet.errors import MeasureError
from tersenet.measure import (
    bench,
    compare,
    compare_callables,
    compare_many,
    describe_device,
    time_callable,
)
from tersenet.measure.side_by_side import _notes

ONE = Deployment(batches=(1,))
CORES = len(os.sched_getaffinity(0))


class Sleeper(nn.Module):
    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def forward(self, inputs):
        time.sleep(self.seconds)
        return inputs


def sleeping(milliseconds):
    return functools.partial(Sleeper(milliseconds / 1e3), torch.zeros(1))


def test_a_model_that_sleeps_5_ms_is_measured_within_5_percent():
    found = time_callable(sleeping(5), iterations=100, seconds=0.1)
    assert found.p50_ms == pytest.approx(5, rel=0.05)
    assert len(found.samples_ms) >= 100
    assert found.throughput == pytest.approx(200, rel=0.05)


def test_a_model_that_sleeps_twice_as_long_is_half_as_fast_within_5_percent():
    found = compare_callables(sleeping(5), sleeping(10), iterations=60, seconds=0.1)
    assert found.ratio == pytest.approx(2, rel=0.05)
    assert found.low <= found.ratio <= found.high
    assert found.baseline.p50_ms == pytest.approx(10, rel=0.05)


def test_percentiles_are_read_from_all_samples():
    facts = {"threads": 1, "runtime": "r", "load_average": 0.0, "warmup": 1}
    found = Latency(
        samples_ms=tuple(map(float, range(1, 102))), batch=8, device=describe_device(), **facts
    )
    assert (found.p50_ms, found.p95_ms) == (51.0, 96.0)
    assert found.throughput == pytest.approx(8 / 0.051)


def test_files_are_compared_at_every_batch(square):
    deployment = Deployment(batches=(1, 8))
    found = compare(square(16), square(1024), deployment=deployment, iterations=100, seconds=0.1)
    assert [one.batch for one in found] == [1, 8]
    for one in found:
        # 4,096 times the work: no noise hides that.
        assert 2 < one.low <= one.ratio <= one.high
        for latency in (one.own, one.baseline):
            assert len(latency.samples_ms) >= 100
            assert min(latency.samples_ms) > 0
            assert latency.batch == one.batch
            assert latency.threads == len(latency.pinned) == 1
            assert set(latency.pinned) <= os.sched_getaffinity(0)
            assert latency.runtime == "onnxruntime"
            assert latency.warmup > 2
            assert latency.load_average >= 0
        assert one.own.p50_ms < one.baseline.p50_ms


def test_a_file_may_be_its_own_control(square):
    (found,) = compare(square(64), square(64), deployment=ONE, iterations=200, seconds=0.1)
    assert 0.5 < found.ratio < 2
    assert found.own.samples_ms != found.baseline.samples_ms


def test_the_first_of_many_is_what_the_others_are_compared_with(square):
    files = {"large": square(512), "small": square(8), "large again": square(512)}
    found = compare_many(files, deployment=ONE, iterations=40, seconds=0.05)
    assert list(found) == list(files)
    large, small = found["large"][0], found["small"][0]
    assert (large.ratio, large.low, large.high) == (1, 1, 1)
    assert small.baseline.samples_ms == large.own.samples_ms
    assert small.ratio > 1.5


def test_the_bench_has_bytes_memory_and_latency_of_each_file(square):
    files = {"large": square(512), "small": square(8)}
    found = bench(files, deployment=ONE, iterations=20, seconds=0.05)
    assert [one.name for one in found.files] == ["large", "small"]
    for one in found.files:
        assert one.file_bytes == files[one.name].stat().st_size
        assert isinstance(one.peak_memory_bytes, int)
        assert one.peak_memory_bytes > 10_000_000
        assert one.latency[0] is one.speedups[0].own
    assert found.files[1].speedups[0].ratio > 1
    assert found.device == describe_device()


def test_a_loaded_machine_is_noted_not_refused():
    cores = os.cpu_count() or 1
    assert _notes(cores - 0.5, describe_device()) == ()
    assert "loaded" in _notes(cores + 0.5, describe_device())[0]


def test_the_process_may_not_use_more_threads_than_cores(square):
    with pytest.raises(MeasureError, match=f"may use {CORES} cores"):
        compare(square(4), square(4), deployment=Deployment(threads=CORES + 1))


def test_what_is_missing_or_damaged_is_named(square, tmp_path):
    with pytest.raises(MeasureError, match=r"none\.onnx does not exist"):
        compare(square(4), tmp_path / "none.onnx", deployment=ONE)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no protobuf at all")
    with pytest.raises(MeasureError, match=r"onnxruntime cannot load .*damaged\.onnx"):
        compare(damaged, square(4), deployment=ONE)
    with pytest.raises(MeasureError, match="batch fixed at 2"):
        compare(square(4, batch=2), square(4, batch=2), deployment=ONE)
    with pytest.raises(MeasureError, match="no file to measure"):
        compare_many({}, deployment=ONE)
    with pytest.raises(MeasureError, match="0 iterations"):
        compare(square(4), square(4), deployment=ONE, iterations=0)


def test_a_measurement_that_takes_too_long_is_ended(square):
    with pytest.raises(MeasureError, match=r"took more than 0.01 s"):
        compare(square(4), square(4), deployment=ONE, timeout=0.01)


def workers_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_text()
                ppid = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if ppid == parent and "tersenet.measure.worker" in line:
                found.append(int(folder.name))
    return found


def until(found, seconds=60):
    end = time.monotonic() + seconds
    while not (value := found()) and time.monotonic() < end:
        time.sleep(0.01)
    return value


def test_a_killed_measurement_is_an_error_not_a_figure(square):
    path = square(64)
    caught: list[MeasureError] = []

    def measure():
        try:
            compare(path, path, deployment=ONE, iterations=10_000_000)
        except MeasureError as error:
            caught.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    (worker,) = until(lambda: workers_of(os.getpid()))
    os.kill(worker, signal.SIGKILL)
    thread.join(60)
    assert "square64.onnx was killed by SIGKILL" in str(caught[0])


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (signal.SIGKILL, "free some memory"),
        (signal.SIGILL, "this processor lacks an instruction that the runtime was built with"),
        (signal.SIGSEGV, "crashed inside the runtime: choose another"),
        (signal.SIGTERM, "start it again"),
    ],
)
def test_what_ended_the_process_decides_what_is_advised(square, monkeypatch, number, remedy):
    script = "import os, sys; os.kill(os.getpid(), int(sys.argv[-1]))"
    killed = subprocess.run([sys.executable, "-c", script, str(int(number))], check=False)
    monkeypatch.setattr("tersenet.measure.process.subprocess.run", lambda *_, **__: killed)
    path = square(64)
    with pytest.raises(MeasureError, match=f"killed by {number.name}: .*{remedy}"):
        compare(path, path, deployment=ONE)


def test_a_killed_run_leaves_no_measurement_behind(square):
    path = square(64)
    script = (
        "import sys; from pathlib import Path; from tersenet.measure import compare\n"
        "from tersenet.core.types import Deployment\n"
        "path = Path(sys.argv[1])\n"
        "compare(path, path, deployment=Deployment(batches=(1,)), iterations=10**7)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as run:
        (worker,) = until(lambda: workers_of(run.pid))
        # Onwards from here it has asked the kernel to die with its parent.
        assert until(lambda: "onnxruntime" in Path(f"/proc/{worker}/maps").read_text())
        run.kill()
    assert until(lambda: not Path(f"/proc/{worker}").exists() or is_zombie(worker))


def is_zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
