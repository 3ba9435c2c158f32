"""A machine with less memory than a step needs: a sentence, not a process that is killed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet.core import memory
from tersenet.core.memory import available_bytes, require_memory
from tersenet.errors import ResourceError
from tersenet.export import layer_parity, to_onnx

CASES = Path(__file__).with_name("memory_cases.py")


def case(name: str) -> Callable[[], object]:
    """One of the steps that need much; made here, run by whoever calls it."""
    namespace: dict[str, Callable[[], Callable[[], object]]] = {}
    exec(CASES.read_text(), namespace)
    return namespace[name]()


NAMES = ("gptq", "block", "fisher", "least_squares", "cp", "tucker")


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    step = case(name)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)
    with pytest.raises(ResourceError, match=r"takes up to [\d.]+ [MG]B of memory and 1 MB are av"):
        step()


@pytest.mark.parametrize("name", NAMES)
def test_the_estimate_bounds_the_peak_within_three_times(name: str) -> None:
    done = subprocess.run(
        [sys.executable, CASES, name],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["peak"] > 60e6  # far above what an interpreter's own state moves by
    assert found["peak"] < found["asked"] < 3 * found["peak"], found


def test_layers_are_compared_on_fewer_samples_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    path, inputs = tmp_path / "model.onnx", torch.randn(20, 1, 8, 8)
    converted = to_onnx(model, (inputs[:2],), path)
    whole = layer_parity.compare_layers(model, path, inputs, kind="float", converted=converted)
    # A sample takes 2 * (64 + 3 * 144 + 3) floats and as many again for its louder copy.
    monkeypatch.setattr(layer_parity, "available_bytes", lambda: 2 * 3 * 4 * 4 * (64 + 3 * 144 + 3))
    assert layer_parity._at_once(converted, path) == 3
    parts = layer_parity.compare_layers(model, path, inputs, kind="float", converted=converted)
    assert (parts.samples, parts.first, parts.values) == (20, None, whole.values)
    monkeypatch.setattr(layer_parity, "available_bytes", lambda: 10)
    assert layer_parity._at_once(converted, path) == 1  # so little that nobody is asked


def of_group(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemAvailable: 8000 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_least_of_system_and_control_groups_counts(tmp_path: Path) -> None:
    assert available_bytes(of_group(tmp_path / "plain", {})) == 8_192_000
    second = {
        "proc/self/cgroup": "0::/one/two\n",
        "sys/fs/cgroup/one/two/memory.max": "max\n",
        "sys/fs/cgroup/one/two/memory.current": "1000\n",
        "sys/fs/cgroup/one/memory.max": "5000000\n",
        "sys/fs/cgroup/one/memory.current": "3000000\n",
        "sys/fs/cgroup/one/memory.stat": "anon 1\ninactive_file 500000\n",
    }
    assert available_bytes(of_group(tmp_path / "second", second)) == 2_500_000
    first = {
        "proc/self/cgroup": "3:cpuset:/a\n4:memory:/not/here\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "4000000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "3000000\n",
        "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
    }
    assert available_bytes(of_group(tmp_path / "first", first)) == 1_000_000


def test_a_limit_of_address_space_counts() -> None:
    code = (
        "import resource\nfrom pathlib import Path\n"
        "from tersenet.core.memory import available_bytes\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 10**8,) * 2)\n"
        "print(available_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.9e8 < int(done.stdout) <= 1e8


def test_a_refusal_names_both_figures_and_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 3_100_000_000)
    require_memory(3e9, what="x", instead="y")
    with pytest.raises(ResourceError) as refused:
        require_memory(12.3e9, what="GPTQ of conv1", instead="lower samples")
    assert str(refused.value) == (
        "GPTQ of conv1 takes up to 12.3 GB of memory and 3.1 GB are available here: lower samples, "
        "or run it where there is more."
    )
