import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tersenet.core.types import Deployment, Energy, Unmeasured
from tersenet.errors import MeasureError
from tersenet.measure import (
    describe_device,
    energy_per_inference,
    idle_memory,
    installed,
    peak_memory,
)
from tersenet.measure.rapl import Counter, counters, joules

MEGABYTE = 1_000_000


@pytest.mark.parametrize("runtime", installed())
def test_peak_memory_grows_with_the_file_and_not_with_who_asks(square, runtime):
    deployment = Deployment(runtime=runtime)
    held = np.ones(50 * MEGABYTE)  # 400 MB in this process, none of them the file's
    idle = idle_memory(deployment=deployment)
    small = peak_memory(square(8), deployment=deployment)
    large = peak_memory(square(5000), deployment=deployment)  # 100 MB of weights
    assert isinstance(idle, int)
    assert isinstance(small, int)
    assert isinstance(large, int)
    assert 10 * MEGABYTE < idle <= small < held.nbytes
    assert large - small > 95 * MEGABYTE


def test_memory_that_cannot_be_measured_says_why(tmp_path, square):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no protobuf at all")
    found = peak_memory(damaged, deployment=Deployment())
    assert isinstance(found, Unmeasured)
    assert "damaged.onnx" in found.reason
    with pytest.raises(MeasureError, match="does not exist"):
        peak_memory(tmp_path / "none.onnx", deployment=Deployment())


def counter(root: Path, folder: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850):
    (root / folder).mkdir(parents=True)
    (root / folder / "name").write_text(f"{name}\n")
    (root / folder / "energy_uj").write_text(f"{energy_uj}\n")
    (root / folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return root / folder


def test_each_joule_is_counted_once(tmp_path):
    (tmp_path / "intel-rapl").mkdir()  # the control type itself
    counter(tmp_path, "intel-rapl:0", "package-0", 7)
    counter(tmp_path, "intel-rapl:0:0", "core", 5)
    counter(tmp_path, "intel-rapl:0:1", "dram", 3)
    counter(tmp_path, "intel-rapl:1", "package-1", 2)
    counter(tmp_path, "intel-rapl:2", "psys", 12)
    found = counters(tmp_path)
    assert [one.name for one in found] == ["package-0", "dram", "package-1"]
    assert [one.read_uj() for one in found] == [7, 3, 2]


def test_a_counter_that_wraps_loses_nothing():
    one = Counter("package-0", Path("/nowhere"), range_uj=999)
    assert joules(one, 100, 350) == 250e-6
    assert joules(one, 990, 10) == 20e-6  # 990 … 999, 0 … 10
    assert joules(one, 5, 5) == 0


def test_energy_without_counters_is_unmeasured(tmp_path, square):
    found = energy_per_inference(square(8), deployment=Deployment(), root=tmp_path)
    assert isinstance(found, Unmeasured)
    assert "no energy counters" in found.reason


def test_energy_of_counters_that_may_not_be_read_is_unmeasured(tmp_path, square, monkeypatch):
    counter(tmp_path, "intel-rapl:0", "package-0", 7)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Counter, "read_uj", refuse)
    found = energy_per_inference(square(8), deployment=Deployment(), root=tmp_path)
    assert isinstance(found, Unmeasured)
    assert "may not be read" in found.reason


def test_energy_of_counters_that_stand_still_is_unmeasured(tmp_path, square):
    counter(tmp_path, "intel-rapl:0", "package-0", 7)
    found = energy_per_inference(square(8), deployment=Deployment(), root=tmp_path, seconds=0.05)
    assert isinstance(found, Unmeasured)
    assert "did not move" in found.reason


def test_energy_is_what_the_counters_gained_per_inference(tmp_path, square):
    # The counter gains 40 microjoules with each turn of a thread, and wraps at 1,000.
    folder = counter(tmp_path, "intel-rapl:0", "package-0", 0, range_uj=999)
    done, gained = threading.Event(), 0

    def spend():
        nonlocal gained
        while not done.wait(0.02):
            gained += 40
            fresh = tmp_path / "fresh"
            fresh.write_text(f"{gained % 1000}\n")
            fresh.replace(folder / "energy_uj")

    thread = threading.Thread(target=spend)
    thread.start()
    try:
        found = energy_per_inference(
            square(64), deployment=Deployment(), root=tmp_path, seconds=0.3
        )
    finally:
        done.set()
        thread.join()
    assert isinstance(found, Energy)
    assert found.source.startswith("RAPL package-0, whole machine, mean of ")
    inferences = int(found.source.split(" of ")[1].split()[0])
    spent = found.joules * inferences * 1e6
    assert spent == pytest.approx(40 * round(spent / 40))
    assert 40 <= spent <= gained


def test_the_device_is_described_from_what_the_kernel_says(tmp_path):
    found = describe_device()
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.cpu
    kibibytes = int(Path("/proc/meminfo").read_text().split()[1])
    assert found.memory_bytes == pytest.approx(1024 * kibibytes, rel=0.01)
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu avx2 avx512_vnni\n")
    described = describe_device(cpuinfo=file)
    assert described.cpu == "A Processor"
    assert described.isa == ("avx2", "avx512_vnni")
    assert described.has_int8_dot
    file.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    arm = describe_device(cpuinfo=file)
    assert arm.isa == ("asimd", "asimddp")
    assert arm.has_int8_dot
    file.write_text("model name\t: An Older One\nflags\t\t: avx2\n\nmodel name\t: Another\n")
    assert not describe_device(cpuinfo=file).has_int8_dot
