"""A laptop that must stay usable: no more threads compute than the recipe says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tersenet.core.host.threads import _Blas, _find_loaded, on_threads

pytestmark = pytest.mark.slow

CODE = """
import json, os, resource, sys, threading, time
from pathlib import Path
import numpy, torch
from torch import nn
import tersenet
folder, threads = Path(sys.argv[1]), int(sys.argv[2])
recipe = folder / "recipe.yaml"
recipe.write_text(f'''
name: nice
threads: {threads}
deployment: {{batches: [1], iterations: 3, seconds: 0, threads: 1}}
steps:
  - prune: {{l1: {{keep: 0.8, multiple_of: null}}}}
  - repair: least-squares
  - distill: {{response: {{epochs: 2, learning_rate: 0.01}}}}
  - quantize: {{static: {{rounding: gptq, bits: 4, samples: 256}}}}
''')
torch.manual_seed(0)
images = tersenet.Images(
    pixels=torch.randint(0, 255, (1024, 1, 16, 16), dtype=torch.uint8),
    labels=torch.randint(0, 3, (1024,)), mean=(0.5,), std=(0.5,), name="noise")
task = tersenet.Classification(train=images, test=images, batch_size=64, calibration=256)
model = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
    nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 3))
before = time.process_time(), time.thread_time(), torch.get_num_threads()
outcome = tersenet.compress(model, task, recipe=recipe, folder=folder / "run")
whole, own = time.process_time() - before[0], time.thread_time() - before[1]
header = json.loads((folder / "run" / "run.json").read_text())
print(json.dumps({"own": own, "others": whole - own, "header": header["threads"],
                  "restored": torch.get_num_threads() == before[2]}))
"""


def ran(folder: Path, threads: int) -> dict[str, float]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(threads)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_one_thread_is_one(tmp_path: Path) -> None:
    found = ran(tmp_path, 1)
    assert found["header"] == 1
    assert found["restored"]
    assert found["others"] < 0.05 * found["own"]  # CPU seconds of other threads than the first


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has no second thread")
def test_two_threads_are_two(tmp_path: Path) -> None:
    found = ran(tmp_path, 2)
    assert found["header"] == 2
    # Where other work has the second core, little is left to a second thread; one that is not
    # there computes nothing.
    assert 0.1 < found["others"] < 1.05 * found["own"]


def test_libraries_are_told_and_told_back() -> None:
    libraries = [_Blas(path) for path in _find_loaded("openblas")]
    before = [one.get() for one in libraries], torch.get_num_threads()
    with on_threads(1):
        assert [one.get() for one in libraries] == [1] * len(libraries)
        assert torch.get_num_threads() == 1
    assert ([one.get() for one in libraries], torch.get_num_threads()) == before
