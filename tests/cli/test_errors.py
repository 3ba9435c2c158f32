"""Bad input at the command line: one sentence, the right exit code, nothing half-written."""

import gzip
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tersenet.cli import main
from tersenet.core.files import load_tensors, save_tensors
from tersenet.data import fashion_mnist

WEIGHTS = Path("weights/resnet20-fashion-mnist.safetensors").resolve()
RECIPE = """\
name: demo
model:
  resnet: {depth: 20, in_channels: 1}
weights: WEIGHTS
data:
  fashion-mnist: {train_images: 256, test_images: 64}
deployment: {batches: [1], iterations: 3, seconds: 0}
steps:
  - prune:
      l1: {keep: 0.9, multiple_of: 1}
"""


class Bench:
    """A folder with a recipe in it, and the command run on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.out = folder / "run"
        self.capsys = capsys
        self.recipe = RECIPE.replace("WEIGHTS", str(WEIGHTS))

    def replace(self, old: str, new: object) -> None:
        assert old in self.recipe
        self.recipe = self.recipe.replace(old, str(new))

    def complaint(self, code: int) -> str:
        """Runs compress, which must fail with `code` and say one sentence."""
        path = self.folder / "recipe.yaml"
        path.write_text(self.recipe)
        assert main(["compress", str(path), "--out", str(self.out)]) == code
        caught = self.capsys.readouterr()
        assert caught.out == ""
        lines = [line for line in caught.err.splitlines() if line.startswith("tersenet: ")]
        assert len(lines) == 1, caught.err
        assert "Traceback" not in caught.err
        return lines[0]


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, capsys)


def test_missing_weights(bench: Bench) -> None:
    bench.replace(str(WEIGHTS), "nowhere.safetensors")
    assert "nowhere.safetensors does not exist" in bench.complaint(1)
    assert not bench.out.exists()


def test_truncated_weights(bench: Bench) -> None:
    (bench.folder / "cut.safetensors").write_bytes(WEIGHTS.read_bytes()[:500_000])
    bench.replace(str(WEIGHTS), "cut.safetensors")
    assert "truncated or not safetensors" in bench.complaint(1)
    assert not bench.out.exists()


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_run(bench: Bench) -> None:
    (bench.folder / "weights.pth").write_bytes(pickle.dumps(Trap(bench.folder / "sprung")))
    bench.replace(str(WEIGHTS), "weights.pth")
    assert "is a pickle, which can execute code" in bench.complaint(1)
    torch.save({"a": torch.zeros(1)}, bench.folder / "weights.pth")
    assert "is a pickle, which can execute code" in bench.complaint(1)
    assert not (bench.folder / "sprung").exists()
    assert not bench.out.exists()


def test_weights_of_another_architecture_name_the_keys(bench: Bench) -> None:
    bench.replace("depth: 20", "depth: 14")
    said = bench.complaint(1)
    assert "another architecture" in said
    assert "stage1.2.bn1" in said
    bench.replace("depth: 14", "depth: 20, width: 8")
    assert "bn1.bias is [16], not [8]" in bench.complaint(1)
    assert not bench.out.exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("keep: 0.9", "kepe: 0.9", ":10: prune.l1 has no option 'kepe'; did you mean 'keep'?"),
        ("keep: 0.9", "keep: much", ":10: prune.l1.keep is 'much'"),
        ("keep: 0.9", "keep: 0", ":10: prune.l1.keep is 0; it must be greater than 0"),
    ],
)
def test_recipe_errors_are_usage(bench: Bench, old: str, new: str, says: str) -> None:
    bench.replace(old, new)
    assert says in bench.complaint(2)
    assert not bench.out.exists()


def test_a_glob_that_matches_nothing(bench: Bench) -> None:
    bench.replace("keep: 0.9", "keep: 0.9, skip: ['layer9.*']")
    said = bench.complaint(1)
    assert "'layer9.*'" in said
    assert "matches no" in said


def test_missing_data(bench: Bench) -> None:
    bench.replace("train_images: 256", f"folder: {bench.folder / 'empty'}, train_images: 256")
    assert "Fashion-MNIST is not in" in bench.complaint(1)
    assert not bench.out.exists()


@pytest.mark.parametrize(("damage", "says"), [("cut", "truncated"), ("flip", "SHA-256")])
def test_damaged_data(bench: Bench, damage: str, says: str) -> None:
    folder = bench.folder / "data"
    shutil.copytree(fashion_mnist.find(), folder)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    if damage == "cut":
        labels.write_bytes(labels.read_bytes()[:3000])
    else:
        content = bytearray(gzip.decompress(labels.read_bytes()))
        content[100] ^= 1
        labels.write_bytes(gzip.compress(bytes(content)))
    bench.replace("train_images: 256", f"folder: {folder}, train_images: 256")
    said = bench.complaint(1)
    assert "t10k-labels" in said
    assert says in said
    assert not bench.out.exists()


def test_output_folder_that_cannot_be_written(bench: Bench) -> None:
    (bench.folder / "file").write_text("precious")
    bench.out = bench.folder / "file" / "run"
    assert "choose another" in bench.complaint(1)
    assert (bench.folder / "file").read_text() == "precious"


def test_output_folder_with_something_in_it(bench: Bench) -> None:
    bench.out.mkdir()
    (bench.out / "thesis.txt").write_text("precious")
    assert "holds other files" in bench.complaint(1)
    (bench.out / "run.json").write_text("{}")
    assert "holds another run" in bench.complaint(1)
    assert (bench.out / "thesis.txt").read_text() == "precious"


def test_damaged_weights_that_give_nan(bench: Bench) -> None:
    tensors, _ = load_tensors(WEIGHTS)
    tensors["linear.weight"][3, 5] = torch.nan
    save_tensors(bench.folder / "nan.safetensors", tensors)
    bench.replace(str(WEIGHTS), "nan.safetensors")
    assert "NaN or infinite" in bench.complaint(1)
    assert not bench.out.exists()


def test_a_full_disk(bench: Bench) -> None:
    path = bench.folder / "recipe.yaml"
    path.write_text(bench.recipe)

    def no_file_above_half_a_megabyte() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    done = subprocess.run(
        [sys.executable, "-m", "tersenet", "compress", str(path), "--out", str(bench.out)],
        preexec_fn=no_file_above_half_a_megabyte,
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("tersenet: ")]
    assert len(said) == 1, done.stderr
    assert "free some space" in said[0]
    assert not bench.out.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compress"], "give either a RECIPE"),
        (["compress", "a.yaml", "--resume", "b"], "give either a RECIPE"),
        (["compres"], "compres"),
        (["compress", "--nope"], "--nope"),
        (["bench"], "MODEL"),
    ],
)
def test_usage(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("tersenet: ")
    assert says in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compress", "--resume", "nowhere"], "holds no run"),
        (["report", "nowhere"], "holds no run"),
        (["bench", "nowhere.onnx"], "nowhere.onnx"),
        (["inspect", "nowhere"], "cannot read the recipe"),
    ],
)
def test_nothing_there(
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) in {1, 2}
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
