"""A native call that never returns: it is told, and Ctrl-C ends the command within ten seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tersenet.core.host.vigil import descendants
from tersenet.models import resnet

pytestmark = pytest.mark.slow

TRAINING = """\
name: stuck
model:
  resnet: {depth: 8, in_channels: 1, width: 4}
data:
  fashion-mnist: {train_images: 512, test_images: 100}
training: {epochs: 500, learning_rate: 0.1}
output: out/stuck.safetensors
"""
LOCK = "lock = ctypes.create_string_buffer(64); mutex = ctypes.cast(lock, ctypes.c_void_p)\n"
# A default mutex that is locked twice waits for itself for ever, whatever signals come.
STUCK = {
    "without the interpreter's lock": "import ctypes\n" + LOCK + (
        "call = ctypes.CDLL(None).pthread_mutex_lock\ndef hang(): call(mutex); call(mutex)\n"
    ),
    "holding the interpreter's lock": "import ctypes\n" + LOCK + (
        "call = ctypes.PyDLL(None).pthread_mutex_lock\ndef hang(): call(mutex); call(mutex)\n"
    ),
    "in a kernel at full load": (
        "from numba import njit\n"
        "@njit(nogil=True)\ndef hang():\n    n = 0\n    while n >= 0: n ^= 1\n    return n\n"
        "hang.compile(())\n"
    ),
    "while Python shuts down": (
        "import threading\nfrom numba import njit\n"
        "@njit(nogil=True)\ndef busy():\n    n = 0\n    while n >= 0: n ^= 1\n    return n\n"
        "busy.compile(())\n"
        "def hang():\n    threading.Thread(target=busy).start(); threading.Event().wait()\n"
    ),
}  # fmt: skip
COMMAND = """
import sys
from tersenet.core.host import vigil
from tersenet.cli import main
import tersenet.run.training
def fit(model, *_, bench, **__):
    bench.tick("loss 0.5", 3, 80)
    print("stuck", flush=True)
    hang()
tersenet.run.training.fit = fit
vigil.AFTER_SECONDS = float(sys.argv.pop(1))
sys.exit(main())
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Commands as from a terminal, in a folder of their own; none is left behind."""
    (tmp_path / "train.yaml").write_text(TRAINING)
    found: list[subprocess.Popen[str]] = []
    yield found
    for one in found:
        one.kill()
        one.communicate()


def start(found: list[subprocess.Popen[str]], *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell has what it runs in the background ignore interrupts, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        process_group=0,  # as a shell gives each command
    )
    found.append(process)
    return process


def interrupted(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Presses Ctrl-C once; returns how long the end took, and what was said."""
    children = descendants(process.pid)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of them
    _, said = process.communicate(timeout=30)
    took = time.monotonic() - began
    # By its own exit, or by the signal: a shell says 130 of both.
    assert process.returncode in (130, -signal.SIGINT), said
    assert gone(children)
    return took, said


def gone(children: list[int]) -> bool:
    until = time.monotonic() + 2
    while any(map(alive, children)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, children))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("how", list(STUCK))
def test_a_hung_step_ends_within_ten_seconds(
    started: list[subprocess.Popen[str]], tmp_path: Path, how: str
) -> None:
    folder, recipe = tmp_path / "run", tmp_path / "train.yaml"
    process = start(started, "-c", STUCK[how] + COMMAND, 60, "train", recipe, "--out", folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    time.sleep(1)  # and then it is within
    took, said = interrupted(process)
    assert 4 < took < 10  # from outside: by itself it would never end
    assert said.count("interrupted: the last checkpoint is kept") == 1
    assert f"train again with --out {folder} to go on." in said


def stuck_training(started: list[subprocess.Popen[str]], folder: Path) -> subprocess.Popen[str]:
    """A command within a native call that holds the interpreter's lock for good."""
    code = STUCK["holding the interpreter's lock"] + COMMAND
    arguments = ("-c", code, 60, "train", folder / "train.yaml", "--out", folder / "run")
    process = start(started, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    return process


def test_a_second_interrupt_ends_it_at_once(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = stuck_training(started, tmp_path)
    time.sleep(1)
    process.send_signal(signal.SIGINT)  # and kill -INT to one
    time.sleep(0.5)
    took, said = interrupted(process)
    assert took < 2
    assert said.count("interrupted: the last checkpoint is kept") == 1


@pytest.mark.parametrize("how", ["holding the interpreter's lock", "in a kernel at full load"])
def test_a_hung_step_is_told(
    started: list[subprocess.Popen[str]], tmp_path: Path, how: str
) -> None:
    arguments = ("-c", STUCK[how] + COMMAND, 0.5, "train", tmp_path / "train.yaml")
    process = start(started, *arguments, "--out", tmp_path / "run")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(4)
    _, said = interrupted(process)
    told = [line for line in said.splitlines() if "training stuck, loss 0.5 (3 of 80)" in line]
    waits = [float(line.split("no progress for ")[1].split()[0]) for line in told]
    assert 2 <= len(told) <= 4  # each time after twice as long: at 0.5, 1.5 and 3.5 s, say
    assert sorted(waits) == waits
    assert all("since " in line and "Ctrl-C ends it" in line for line in told)


def test_commands_without_steps_are_told_of_too(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    code = STUCK["holding the interpreter's lock"] + COMMAND.replace(
        "tersenet.run.training.fit = fit",
        "import tersenet.encode.files\n"
        "def encode_file(*_, **__):\n    print('stuck', flush=True)\n    hang()\n"
        "tersenet.encode.files.encode_file = encode_file",
    )
    process = start(started, "-c", code, 0.5, "encode", "weights.safetensors")
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    time.sleep(2)
    _, said = interrupted(process)
    assert ": tersenet encode weights.safetensors." in said
    assert "tersenet: interrupted." in said.splitlines()


def test_training_ends_at_once(started: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(started, "-m", "tersenet", "train", tmp_path / "train.yaml", "--out", folder)
    while not (folder / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.05)
    took, said = interrupted(process)
    assert took < 10
    assert said.count("interrupted: the last checkpoint is kept") == 1


def test_the_process_that_measures_ends_too(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    import torch

    from tersenet.export import to_onnx

    path = tmp_path / "model.onnx"
    to_onnx(resnet(depth=8, in_channels=1, width=4).eval(), (torch.zeros(1, 1, 28, 28),), path)
    process = start(started, "-m", "tersenet", "bench", path, "--iterations", 10**9)
    while not any("measure.worker" in command_line(one) for one in descendants(process.pid)):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(2)
    took, said = interrupted(process)
    assert took < 10
    assert "tersenet: interrupted." in said.splitlines()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_a_killed_command_leaves_nobody_behind(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = stuck_training(started, tmp_path)
    children = descendants(process.pid)
    assert len(children) == 1  # who watches
    process.kill()
    _, said = process.communicate(timeout=30)
    assert "ended by the system, as where memory is short: the last checkpoint is kept" in said
    assert gone(children)


TIMING = """
import os, time
from tersenet.study.one_thread import one_thread
if __name__ == "__main__":
    with one_thread() as call:
        print(call(os.getpid), flush=True)
        call(time.sleep, 60)
"""


def test_a_process_for_timings_ends_with_the_study(
    started: list[subprocess.Popen[str]],
) -> None:
    process = start(started, "-c", TIMING)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert alive(child)
    process.kill()
    assert gone([child])


LIBRARY = """
import json, logging, sys, time
from pathlib import Path
import torch
from torch import nn
import tersenet
from tersenet.core.host import vigil
from tersenet.core.host.vigil import descendants
vigil.AFTER_SECONDS = 0.5
recipe = Path(sys.argv[1])
recipe.write_text("name: own\\nsteps: [{distill: {response: {epochs: 1, learning_rate: 0.1}}}]\\n"
                  "deployment: {batches: [1], iterations: 3, seconds: 0}\\n")
images = tersenet.Images(
    pixels=torch.randint(0, 255, (512, 1, 8, 8), dtype=torch.uint8),
    labels=torch.randint(0, 3, (512,)), mean=(0.5,), std=(0.5,), name="noise")
task = tersenet.Classification(train=images, test=images, batch_size=64, calibration=64)
class Watch:
    def begin(self, index, count, name): self.name = name
    def tick(self, text, done, total):
        if self.name == "distill response":
            print("training", flush=True)
            time.sleep(3)
    def finish(self, record, *, recalled): pass
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
try:
    tersenet.compress(model, task, recipe=recipe, folder=recipe.parent / "run", watch=Watch())
except KeyboardInterrupt as error:
    import os, signal
    print(json.dumps({"said": str(error), "children": descendants(os.getpid()),
                      "ours": signal.getsignal(signal.SIGINT) is signal.default_int_handler}))
"""


def test_from_python_it_is_an_exception_and_told_by_a_warning(
    started: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(started, "-c", LIBRARY, tmp_path / "recipe.yaml")
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    left = json.loads(out.splitlines()[-1])
    folder = tmp_path / "run"
    assert left == {
        "said": "interrupted: finished steps are kept, go on with "
        f"tersenet.compress(model, task, recipe=…, folder={str(folder)!r}).",
        "children": [],
        "ours": True,
    }
    assert "no progress for " in said
    assert "step 1 of 1: distill response" in said
