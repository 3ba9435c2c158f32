"""Bad pruning steps in a recipe: one sentence with the place and the way out, and no run left."""

from pathlib import Path

import pytest
import torch

from tersenet.cli import main
from tersenet.core.files import save_tensors
from tersenet.models import resnet

USAGE, FAILED = 2, 1

RECIPE = """\
name: bad
model:
  resnet: {depth: 8, in_channels: 1}
weights: weights.safetensors
data:
  fashion-mnist: {train_images: 128, test_images: 16, calibration: 8}
deployment: {batches: [1], iterations: 1, seconds: 0}
steps:
  - STEP
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    where = tmp_path_factory.mktemp("bad")
    save_tensors(where / "weights.safetensors", resnet(depth=8, in_channels=1).state_dict())
    return where


def complaint(
    folder: Path, text: str, code: int, capsys: pytest.CaptureFixture[str], out: Path
) -> str:
    (folder / "recipe.yaml").write_text(text)
    assert main(["compress", str(folder / "recipe.yaml"), "--out", str(out)]) == code
    caught = capsys.readouterr()
    assert caught.out == ""
    lines = [line for line in caught.err.splitlines() if line.startswith("tersenet: ")]
    assert len(lines) == 1, caught.err
    assert "Traceback" not in caught.err
    assert not (out / "model.onnx").exists()
    return lines[0]


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("prune: {l1: {keep: 0}}", "prune.l1.keep is 0; it must be greater than 0"),
        ("prune: {l1: {keep: -0.5}}", "prune.l1.keep is -0.5; it must be greater than 0"),
        ("prune: {l1: {least: 0}}", "prune.l1.least is 0; it must be greater than or equal to 1"),
        ("prune: {magnitude: {sparsity: 1}}", "prune.magnitude.sparsity is 1; it must be less"),
        ("prune: {magnitude: {rates: {'*': 1}}}", "prune.magnitude.rates.*"),
        ("prune: {magnitude: {}}", "give one of sparsity, threshold, deviations and rates"),
        ("prune: {magnitude: {pattern: '5:4'}}", "prune.magnitude.pattern"),
        ("prune: {layers: {keep: 0}}", "prune.layers.keep is 0; it must be greater than 0"),
        ("prune: {layers: {}}", "give either remove, a number of layers, or keep, a share"),
        (
            "prune: {layers: {criterion: magic, remove: 1}}",
            "there is no criterion 'magic'; it knows activation",
        ),
        ("prune: {latency-aware: {latency: 1}}", "prune.latency-aware.latency is 1; it must be"),
        (
            "prune: {latency-aware: {criterion: magic}}",
            "there is no criterion 'magic'; it knows activation",
        ),
        ("prune: {slimming: {epochs: 0}}", "prune.slimming.epochs is 0; it must be greater"),
    ],
)
def test_options_out_of_range_name_file_line_and_remedy(
    folder: Path, step: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    said = complaint(folder, RECIPE.replace("STEP", step), USAGE, capsys, tmp_path / "run")
    assert "recipe.yaml:9: " in said
    assert says in said
    assert "ArgsKwargs" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (
            "prune: {magnitude: {pattern: '3:5'}}",
            "finds no weight to mask by 3:5: 'conv1': its 1 input channels do not divide into",
        ),
        (
            "prune: {magnitude: {sparsity: 0.5, pattern: [7, 7]}}",
            "do not divide into blocks of 7×7",
        ),
        ("prune: {magnitude: {threshold: 1000}}", "would zero all"),
        (
            "prune: {l1: {only: ['stage9*']}}",
            "'stage9*' in only of prune l1 matches none of the",
        ),
        ("prune: {layers: {remove: 1, skip: ['x*']}}", "'x*' in skip of prune layers"),
        ("prune: {layers: {remove: 99}}", "99 layers were to be removed where"),
    ],
)
def test_steps_that_do_not_fit_the_network_say_why(
    folder: Path, step: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    said = complaint(folder, RECIPE.replace("STEP", step), FAILED, capsys, tmp_path / "run")
    assert says in said


@pytest.mark.parametrize("criterion", ["taylor", "hrank", "thinet"])
def test_a_criterion_that_needs_data_without_data(
    folder: Path, criterion: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    text = RECIPE.replace("calibration: 8", "calibration: 0")
    said = complaint(
        folder, text.replace("STEP", f"prune: {criterion}"), USAGE, capsys, tmp_path / "run"
    )
    assert "calibration is 0; it must be greater than or equal to 1" in said
