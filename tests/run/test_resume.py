"""The main path on a sliver of real data, killed at random points and gone on with."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import tersenet
from tersenet.run import read_run, step_to_json

RECIPE = """\
name: sliver
model:
  resnet: {depth: 8, option: B, in_channels: 1}
weights: WEIGHTS
data:
  fashion-mnist: {train_images: 1024, test_images: 300}
deployment: {batches: [1], iterations: 5, seconds: 0}
budget: {file_bytes: FILE_BYTES}
steps:
  - prune:
      l1: {keep: 0.9, multiple_of: 4}
  - distill:
      response: {epochs: 1, learning_rate: 0.01}
  - quantize: static
"""
WEIGHTS = Path("weights/resnet8-fashion-mnist.safetensors").resolve()
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tersenet", "compress", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def figures(folder: Path) -> list[dict[str, Any]]:
    """Returns all that a run found but what varies from one measurement to the next."""
    steps = [step_to_json(step) for step in read_run(folder).steps]
    for step in steps:
        del step["seconds"], step["speedups"]
        for timed in ("latency", "energy", "peak_memory_bytes"):
            del step["cost"][timed]
    return steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("WEIGHTS", str(WEIGHTS)).replace("FILE_BYTES", "90_000"))
    done = run(recipe, "--out", folder / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "met"
    return folder


def test_every_step_is_measured_and_proved(whole: Path) -> None:
    summary = read_run(whole / "run")
    assert [step.name for step in summary.steps] == [
        "original",
        "prune l1",
        "distill response",
        "quantize static",
    ]
    for step in summary.steps:
        assert step.score is not None
        assert step.score.samples == 300
        assert step.cost.file_bytes == (whole / "run" / step.files["onnx"]).stat().st_size
        assert all(proof.holds for proof in step.proofs)
        assert [speedup.batch for speedup in step.speedups] == [1]
    pruned = summary.steps[1]
    assert pruned.cost.params < summary.steps[0].cost.params
    removal = [proof for proof in pruned.proofs if proof.effect is not None]
    assert removal[0].effect > 1e-3  # it could have failed
    assert summary.steps[3].int8_share == pytest.approx(1.0)


@pytest.mark.parametrize(
    "step", ["steps/01-prune-l1", "steps/02-distill-response", "steps/03-quantize-static", "."]
)
def test_a_saved_model_loads_and_equals_its_file(whole: Path, step: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = whole / "run" / step
    model = tersenet.load(folder)
    inputs = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    with torch.inference_mode():
        ours = model(inputs)
    # An integer kernel may round a tie the other way: a level or two of the logits.
    allowed = 1e-3 if step.startswith(("steps/01", "steps/02")) else 0.5
    assert (ours - torch.from_numpy(outputs)).abs().max() < allowed


def test_killed_at_random_points_it_ends_the_same(whole: Path) -> None:
    folder = whole / "killed"
    generator = random.Random(0)
    kills = 0
    while kills < 4:
        arguments = (
            ("--resume", folder)
            if (folder / "run.json").exists()
            else (whole / "recipe.yaml", "--out", folder)
        )
        process = subprocess.Popen(
            command(*arguments),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not (folder / "run.json").exists() and process.poll() is None:
            time.sleep(0.05)  # before it there is nothing to resume
        time.sleep(generator.uniform(0.2, 7.0))
        if process.poll() is not None:
            assert process.returncode == 0
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    done = run("--resume", folder, "--json")
    assert done.returncode == 0, done.stderr
    assert kills >= 3
    assert figures(folder) == figures(whole / "run")
    for name in ("model.onnx", "model.safetensors", "manifest.json"):
        assert (folder / name).read_bytes() == (whole / "run" / name).read_bytes(), name
    leftovers = [path.name for path in folder.rglob("*") if path.name.endswith(".partial")]
    assert (folder / "report.html").stat().st_size > 10_000
    assert leftovers == []


def test_interrupted_it_says_how_to_go_on(whole: Path) -> None:
    folder = whole / "interrupted"
    process = subprocess.Popen(
        command(whole / "recipe.yaml", "--out", folder),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell has what it runs in the background ignore interrupts, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while not (folder / "steps" / "00-original" / "model.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    # Python ends by the signal itself where the interrupt came within exec: a shell says 130 too.
    assert process.returncode in (130, -signal.SIGINT)
    assert (
        "tersenet: interrupted: finished steps are kept, go on with "
        f"'tersenet compress --resume {folder}'."
    ) in said.splitlines()  # what a library says as it goes down may come after
