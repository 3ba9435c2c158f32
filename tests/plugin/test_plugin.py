"""Another package is installed, and its parts are used in a recipe by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tersenet.core.parts import Parts
from tersenet.errors import PluginError

TOY = Path(__file__).parent / "toy"
RECIPE = """
name: toy
model: {toy-net: {width: 6}}
weights: toy.safetensors
data: {fashion-mnist: {train_images: 256, test_images: 100, batch_size: 32, calibration: 32}}
deployment: {batches: [1], iterations: 2, seconds: 0}
steps:
  - quantize: {round: {digits: 3}}
  - prune: {largest: {keep: 0.5, multiple_of: null}}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the toy package is installed into."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(TOY, tmp_path_factory.mktemp("source") / "toy")  # pip builds in it
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--target", str(folder), str(source)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


def _run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""))))
    return subprocess.run(
        [sys.executable, "-m", "tersenet", *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_parts_are_used_by_name(installed: Path, tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 10),
    )  # fmt: skip
    save_file(net.state_dict(), tmp_path / "toy.safetensors")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    run = tmp_path / "run"
    done = _run(installed, "compress", str(tmp_path / "recipe.yaml"), "--out", str(run))
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert steps[1]["step"]["summary"] == "rounds weights to 3 binary digits"
    assert steps[2]["step"]["name"] == "prune largest"
    assert "keeps 50.0 % of the units" in steps[2]["step"]["summary"]

    # Without the package the same recipe is refused by name, at its line.
    done = _run(tmp_path, "compress", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "no"))
    assert done.returncode != 0
    assert "recipe.yaml:8: there is no quantize method 'round'" in done.stderr


def test_a_plug_in_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken_toy.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    info = tmp_path / "broken_toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tersenet.methods]\nbad = broken_toy:Bad\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("toy-net", "lenet5"), encoding="utf-8")
    done = _run(tmp_path, "compress", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "no"))
    assert done.returncode != 0
    told = " ".join(done.stderr.split())
    assert "the plug-in bad of broken-toy cannot be loaded" in told
    assert "nothing_of_that_name" in told


def test_a_name_that_is_taken_twice_names_both_packages() -> None:
    parts = Parts[type]("thing", package="tersenet", plugins="tersenet.nothing")
    first, second = type("A", (), {}), type("B", (), {})
    first.__module__, second.__module__ = "tersenet.prune", "toy_compression.more"
    parts.register("same")(first)
    with pytest.raises(PluginError, match=r"thing 'same' .* tersenet and toy_compression"):
        parts.register("same")(second)
    assert parts["same"] is first
    parts.add("other", torch.nn.Linear)  # no harm done to the rest
    assert list(parts) == ["same", "other"]
