"""The measuring process: fresh, bound to quiet cores, without PyTorch."""

import json
import re
import subprocess
import sys

import pytest

import tersenet.measure
from tersenet.errors import MeasureError
from tersenet.measure import installed, worker

REQUEST = {"threads": 1, "batch": 1, "batches": [1], "iterations": 5, "seconds": 0, "seed": 0}


@pytest.mark.parametrize("runtime", installed())
@pytest.mark.parametrize("task", ["latency", "memory"])
def test_the_worker_never_imports_torch(square, runtime, task):
    files = {"own": str(square(8))}
    request = {"task": task, "files": files, "runtime": runtime, "warmup": 2, **REQUEST}
    script = (
        "import sys\n"
        "from tersenet.measure import worker\n"
        "code = worker.main()\n"
        "print(*sys.modules, file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stderr.split())
    assert {"numpy", runtime, "tersenet.measure.runtimes"} <= imported
    assert not {name for name in imported if re.match(r"(torch|pydantic)\b", name)}
    answer = json.loads(done.stdout)
    assert len(answer["pinned"]) == 1
    assert answer["batches" if task == "latency" else "peak_bytes"]


def test_the_answer_is_whole_although_native_code_writes_to_standard_output(square, tmp_path):
    # A stand-in for a runtime whose C++ prints where only the answer belongs.
    script = (
        "import os, sys\n"
        "from tersenet.measure import worker\n"
        "open_session = worker.open_session\n"
        "def noisy(*args, **kwargs):\n"
        "    os.write(1, b'loading the model, please wait')\n"
        "    return open_session(*args, **kwargs)\n"
        "worker.open_session = noisy\n"
        "sys.exit(worker.main())\n"
    )
    files = {"own": str(square(8))}
    request = {"task": "memory", "files": files, "runtime": "onnxruntime", **REQUEST}
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["peak_bytes"] > 0
    assert "please wait" in done.stderr


def test_the_least_busy_cores_are_taken(monkeypatch):
    bound = []
    idle = iter([{0: 100, 1: 100, 2: 100, 3: 100}, {0: 101, 1: 115, 2: 103, 3: 115}])
    monkeypatch.setattr(worker, "usable_cores", lambda: (0, 1, 2))  # not core 3
    monkeypatch.setattr(worker, "bind_to_", lambda cores: bound.append(cores) or tuple(cores))
    monkeypatch.setattr(worker, "idle_seconds", lambda: next(idle))
    assert worker._pin(2) == [1, 2]
    assert bound == [[1, 2]]
    assert worker._pin(3) == [0, 1, 2]
    with pytest.raises(MeasureError, match="this process may use 3"):
        worker._pin(4)


def test_every_public_name_is_there():
    for name in tersenet.measure.__all__:
        assert getattr(tersenet.measure, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'guess'"):
        tersenet.measure.guess  # noqa: B018
