"""The convention of benchmarks, and the first of them, run as a user runs it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tersenet.measure import installed

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    def module(name):
        monkeypatch.syspath_prepend(str(FOLDER))
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, found)
        spec.loader.exec_module(found)
        return found

    return module


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "latency.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("value", "target", "at_most", "met"),
    [
        (1.5, 1.4, False, True),
        (1.3, 1.4, False, False),
        (1.3, 1.4, True, True),
        (1.5, 1.4, True, False),
        (1.5, None, False, None),
        (None, 1.4, False, False),
        (None, None, False, None),
    ],
)
def test_a_target_is_met_or_not_or_there_is_none(load, value, target, at_most, met):
    figure = load("convention").Figure(
        name="n", value=value, unit="×", against=None, target=target, at_most=at_most
    )
    assert figure.met is met
    assert figure.as_json() == {
        "name": "n", "value": value, "unit": "×", "against": None, "target": target, "met": met,
    }  # fmt: skip


def test_files_are_compared_on_every_runtime(square, tmp_path):
    large, small, found = square(512), square(8), tmp_path / "found.json"
    done = run("--quick", "--original", large, "--compressed", small, "--json", found)
    assert done.returncode == 0, done.stderr
    figures = {one["name"]: one for one in json.loads(found.read_text())}
    assert all(
        set(one) == {"name", "value", "unit", "against", "target", "met"}
        for one in figures.values()
    )
    size = figures[f"{small}: bytes"]
    assert size["value"] == large.stat().st_size / small.stat().st_size
    assert (size["target"], size["met"]) == (5.0, True)
    for runtime in installed():
        for batch, target in ((1, 1.4), (8, None), (64, 1.5)):
            one = figures[f"{small}: {runtime}, batch {batch}"]
            assert one["target"] == (target if runtime == "onnxruntime" else None)
            assert one["value"] > 1
            assert figures[f"original, again: {runtime}, batch {batch}"]["target"] is None
    assert "a smoke form" in done.stdout


def test_the_newest_run_is_taken_with_all_its_steps(load, tmp_path):
    for age, name in enumerate(("2024-old", "2023-new")):
        for step in ("00-original", "01-prune", "02-quantize"):
            file = tmp_path / name / "steps" / step / "model.onnx"
            file.parent.mkdir(parents=True)
            file.write_bytes(b"")
            os.utime(file, (1_000 + age, 1_000 + age))
    found = load("latency").newest_run(tmp_path)
    assert list(found) == ["original", "01-prune", "02-quantize"]
    assert {path.parents[2].name for path in found.values()} == {"2023-new"}
    only = load("latency").newest_run(tmp_path / "2024-old")
    assert only["01-prune"] == tmp_path / "2024-old" / "steps" / "01-prune" / "model.onnx"
    with pytest.raises(FileNotFoundError, match="holds no run: make one with 'tersenet compress"):
        load("latency").newest_run(tmp_path / "2023-new" / "steps")


def test_what_is_missing_is_one_sentence(square, tmp_path):
    done = run("--original", square(8), "--compressed", tmp_path / "none.onnx")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("none.onnx does not exist: give the path of an ONNX file.")
    assert run("--original", square(8)).returncode == 2
