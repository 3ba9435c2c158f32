"""The commands on real files: what they print, as tables and as JSON."""

import json
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tersenet import api
from tersenet.cli import main
from tersenet.measure import describe_device
from tersenet.models import resnet

RECIPE = """\
name: commands
model:
  resnet: {depth: 20, in_channels: 1}
weights: WEIGHTS
data:
  fashion-mnist: {train_images: 512, test_images: 200}
deployment: {batches: [1, 2], iterations: 3, seconds: 0}
budget: {file_bytes: 10}
steps:
  - quantize: static
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "recipe.yaml"
    weights = Path("weights/resnet20-fashion-mnist.safetensors").resolve()
    path.write_text(RECIPE.replace("WEIGHTS", str(weights)))
    return path


@pytest.fixture(scope="module")
def missed(recipe: Path) -> Path:
    """A run whose budget of 10 bytes cannot be met: exit code 3, the best model saved."""
    folder = recipe.parent / "run"
    assert main(["compress", str(recipe), "--out", str(folder)]) == 3
    return folder


def test_a_missed_budget_saves_the_best(missed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("model.onnx", "model.safetensors", "manifest.json", "report.html"):
        assert (missed / name).stat().st_size > 0
    assert main(["compress", "--resume", str(missed), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "missed"
    assert told["bounds"] == [{"text": told["bounds"][0]["text"], "met": False}]
    assert Path(told["files"]["onnx"]).stat().st_size == told["steps"][1]["cost"]["file_bytes"]


def test_compress_prints_what_was_measured(
    missed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", "--resume", str(missed)]) == 3
    printed = capsys.readouterr().out
    step = json.loads((missed / "journal.jsonl").read_text().splitlines()[1])["step"]
    assert f"{step['cost']['file_bytes']:,} B" in printed
    assert f"{100 * step['score']['value']:.2f} %" in printed
    assert "of 200" in printed
    assert f"{step['cost']['macs']:,}" in printed
    assert "batch 1" in printed
    assert "batch 2" in printed
    assert f"{step['speedups'][1]['ratio']:.2f}×" in printed
    assert f"Measured on {describe_device().cpu}. {describe_device().meaning}" in printed
    assert "Budget MISSED" in printed
    for name in ("report.html", "model.onnx", "model.safetensors", "manifest.json"):
        assert str(missed / name) in printed


@pytest.mark.parametrize("flags", [[], ["--no-cache"]])
def test_without_the_cache_everything_is_timed_anew(
    flags: list[str], missed: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    asked = []
    resume, start = api.resume, api.compress_recipe
    monkeypatch.setattr(
        api, "compress_recipe", lambda path, **options: asked.append(options) or resume(missed)
    )
    monkeypatch.setattr(
        api, "resume", lambda path, **options: asked.append(options) or resume(path)
    )
    assert signature(start).parameters["cache"].default is True
    main(["compress", "recipe.yaml", *flags])
    main(["compress", "--resume", str(missed), *flags])
    assert [options["cache"] for options in asked] == 2 * [not flags]


def test_report_is_written_again(missed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (missed / "report.html").read_bytes()
    (missed / "report.html").unlink()
    assert main(["report", str(missed)]) == 0
    assert (missed / "report.html").read_bytes() == before
    capsys.readouterr()
    assert main(["report", str(missed), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "missed"
    assert len(told["steps"]) == 2


def test_bench_in_turns(missed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = missed / "model.onnx", missed / "steps/00-original/model.onnx"
    options = ["--batch", "1", "--iterations", "3"]
    assert main(["bench", str(own), "--against", str(other), *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [file["name"] for file in told["files"]] == [str(other), str(own)]
    for file in told["files"]:
        assert file["file_bytes"] == Path(file["name"]).stat().st_size
        assert file["peak_memory_bytes"] > 1e7
        assert len(file["speedups"]) == 1
        assert len(file["speedups"][0]["own"]["samples_ms"]) >= 3
    assert main(["bench", str(own), *options]) == 0
    printed = capsys.readouterr().out
    assert str(own) in printed
    assert describe_device().meaning in printed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--runtime", "abacus"], "it must be 'onnxruntime' or 'openvino'"),
        (["--threads", "0"], "greater than or equal to 1"),
        (["--threads", "4096"], "4096"),
        (["--batch", "0"], "greater than or equal to 1"),
    ],
)
def test_bench_refuses(
    missed: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert main(["bench", str(missed / "model.onnx"), *options]) == 1
    said = capsys.readouterr().err
    assert said.startswith("tersenet: ")
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("what", ["recipe", "run", "step"])
def test_inspect(recipe: Path, missed: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    place = {"recipe": recipe, "run": missed, "step": missed / "steps/00-original"}[what]
    assert main(["inspect", str(place), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    model = resnet(depth=20, in_channels=1)
    norms = 2 * 21 * 3  # what folding takes from batch norm: of scale and shift, one a channel
    count = sum(parameter.numel() for parameter in model.parameters())
    if what == "run":  # the int8 network
        assert count - norms * 64 < told["params"] < count
        assert all(layer["bits"] == 8 for layer in told["layers"])
    else:
        assert told["params"] == count
        assert {"linear"} == {skip["site"] for skip in told["frozen"]}
        assert sum(group["size"] for group in told["groups"]) == 4 * (16 + 32 + 64)
    assert len(told["layers"]) == 22
    assert main(["inspect", str(place)]) == 0
    assert "stage2.0.shortcut.0" in capsys.readouterr().out


def test_train_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(
        "name: tiny\nmodel:\n  resnet: {depth: 8, in_channels: 1, width: 4}\n"
        "data:\n  fashion-mnist: {train_images: 512, test_images: 100}\n"
        "training: {epochs: 1, learning_rate: 0.1}\noutput: out/tiny.safetensors\n"
    )
    command = ["train", str(path), "--out", str(tmp_path / "run"), "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    weights = tmp_path / "out" / "tiny.safetensors"
    assert told["file_bytes"] == weights.stat().st_size
    assert told["samples"] == 100
    first = weights.read_bytes()
    weights.unlink()
    assert main(command) == 0  # from its last checkpoint: nothing is trained again
    assert weights.read_bytes() == first
    path.write_text(path.read_text().replace("0.1", "0.2"))
    capsys.readouterr()
    assert main(command) == 1
    assert "holds the training of another recipe" in capsys.readouterr().err


def test_a_coded_file_is_inspected_whatever_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, coded = tmp_path / "a.safetensors", tmp_path / "a.coded"
    save_file({"fc.weight": np.eye(4, dtype=np.float32)}, weights)
    assert main(["encode", str(weights), "--out", str(coded)]) == 0
    capsys.readouterr()
    assert main(["inspect", str(coded), "--json"]) == 0
    (tensor,) = json.loads(capsys.readouterr().out)["tensors"]
    assert (tensor["name"], tensor["shape"]) == ("fc.weight", [4, 4])
