"""`tersenet train`: its log, label smoothing, and the same weights from two processes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tersenet.cli import main
from tersenet.core.files import load_tensors
from tersenet.errors import RunError, WeightsError
from tersenet.recipe import read_training
from tersenet.run import train
from tersenet.run.training_log import TrainingLog

RECIPE = """
name: tiny
model:
  vgg-small: {width: 4}
data:
  cifar-10: {folder: FOLDER, batch_size: 8, cutout: 8}
training: {epochs: 2, learning_rate: 0.02, label_smoothing: 0.1, ema: 0.9}
output: OUTPUT.safetensors
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A training on forty images in CIFAR-10's binary format."""
    random, root = np.random.default_rng(0), tmp_path / "cifar-10-batches-bin"
    root.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        rows = random.integers(0, 256, (8, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(8)
        (root / f"{name}.bin").write_bytes(rows.tobytes())
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(tmp_path)).replace("OUTPUT", "one"))
    return path


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_log_has_a_row_for_each_epoch(recipe: Path, tmp_path: Path) -> None:
    told: list[float] = []
    train(read_training(recipe), tmp_path / "run", after_epoch=lambda _, loss: told.append(loss))
    found = rows(tmp_path / "run")
    assert [(int(one["epoch"]), int(one["step"])) for one in found] == [(1, 5), (2, 10)]
    assert [float(one["loss"]) for one in found] == told
    options = read_training(recipe).training
    assert float(found[0]["learning_rate"]) == options.rate(4, 10)
    assert float(found[1]["learning_rate"]) == options.rate(9, 10)
    assert all(float(one["seconds"]) >= 0 for one in found)


def test_rows_that_are_trained_again_stand_once(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, tensorboard=False)
    for epoch in (1, 2, 3):
        log.epoch(epoch, step=epoch * 5, loss=float(epoch), learning_rate=0.1)
    again = TrainingLog(tmp_path, tensorboard=False)
    for epoch in (2, 3):
        again.epoch(epoch, step=epoch * 5, loss=float(epoch), learning_rate=0.1)
    assert [(one["epoch"], one["loss"]) for one in rows(tmp_path)] == [
        ("1", "1.0"), ("2", "2.0"), ("3", "3.0"),
    ]  # fmt: skip


def test_labels_are_smoothed(recipe: Path, tmp_path: Path) -> None:
    """The first loss is that of a target of 0.91 for the label and 0.01 for each other class."""
    read, losses = read_training(recipe), []

    def stop(text: str, done: int, total: int) -> None:
        losses.append(float(text.removeprefix("loss ")))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(read, tmp_path / "run", tick=stop)
    torch.manual_seed(read.seed)
    model = read.model.build().train()
    inputs, targets = read.build_task().stream.batch(0)
    with torch.no_grad():
        logs = functional.log_softmax(model(inputs), 1)
    smoothed = 0.9 * functional.one_hot(targets, 10) + 0.01
    assert losses[0] == pytest.approx(-(smoothed * logs).sum(1).mean().item(), abs=1e-3)


def test_interrupted_it_says_how_to_go_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("tersenet.run.training.fit", interrupt)
        assert main(["train", str(recipe), "--out", str(folder)]) == 130
    assert f"train again with --out {folder} to go on" in capsys.readouterr().err
    assert main(["train", str(recipe), "--out", str(folder)]) == 0


def test_tensorboard_that_is_not_installed_is_one_sentence(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RunError, match=r"install 'tersenet\[tensorboard\]', or read metrics\.csv"):
        train(read_training(recipe), tmp_path / "run", tensorboard=True)


def test_tensorboard_is_given_the_same_figures(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained = train(read_training(recipe), tmp_path / "run", tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    found = [one.value for one in events.Scalars("loss")]
    assert found == pytest.approx([float(one["loss"]) for one in rows(tmp_path / "run")])
    assert events.Scalars("top-1")[-1].value == pytest.approx(trained.score.value)


def test_two_processes_give_the_weights_of_one(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), "--out", str(tmp_path / "one"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    both = tmp_path / "both.yaml"
    both.write_text(recipe.read_text().replace("one.safetensors", "both.safetensors"))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "tersenet", "train", str(both), "--out", str(tmp_path / "two"), "--json",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)  # one object: one process speaks
    assert told["params"] == alone["params"]
    one, _ = load_tensors(tmp_path / "one.safetensors")
    two, _ = load_tensors(tmp_path / "both.safetensors")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
    first, second = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [float(row["loss"]) for row in second] == pytest.approx(
        [float(row["loss"]) for row in first], rel=1e-4
    )
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "checkpoint.safetensors", "metrics.csv", "result.json", "training.json",
    ]  # fmt: skip


def test_a_training_starts_from_the_weights_it_is_given(recipe: Path, tmp_path: Path) -> None:
    first = train(read_training(recipe), tmp_path / "first")
    text = recipe.read_text().replace("output: one", "weights: one.safetensors\noutput: two")
    again = tmp_path / "again.yaml"
    again.write_text(text.replace("learning_rate: 0.02", "learning_rate: 1.0e-12"))
    second = train(read_training(again), tmp_path / "second")
    assert "weights:" in read_training(again).resolved()
    for name, value in first.model.named_parameters():
        assert torch.allclose(second.model.get_parameter(name), value, atol=1e-6)


def test_weights_that_are_not_there_are_told(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text() + "weights: none.safetensors\n")
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        train(read_training(recipe), tmp_path / "run")
    assert not (tmp_path / "run").exists()
