"""CIFAR's archives, both versions: small files made here, and pickles that ask for more."""

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tersenet.data import cifar
from tersenet.errors import DataError
from tersenet.train import TASKS

RANDOM = np.random.default_rng(0)
PER_BATCH = 4


def batch(count: int, classes: int) -> tuple[np.ndarray, list[int]]:
    pixels = RANDOM.integers(0, 256, (count, 3072), dtype=np.uint8)
    return pixels, RANDOM.integers(0, classes, count).tolist()


FILES = {
    10: [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"],
    100: ["train", "test"],
}


def written(folder: Path, classes: int, version: str, protocol: int = 2) -> dict[str, Any]:
    """Writes a small data set as its authors do, and returns what stands in it by file."""
    root = {
        "python": {10: "cifar-10-batches-py", 100: "cifar-100-python"},
        "binary": {10: "cifar-10-batches-bin", 100: "cifar-100-binary"},
    }[version][classes]
    (folder / root).mkdir()
    held = {}
    for name in FILES[classes]:
        pixels, labels = held[name] = batch(PER_BATCH, classes)
        if version == "python":
            key = b"labels" if classes == 10 else b"fine_labels"
            value = {b"batch_label": b"x", key: labels, b"data": pixels}
            value |= {b"coarse_labels": [0] * PER_BATCH} if classes == 100 else {}
            (folder / root / name).write_bytes(pickle.dumps(value, protocol=protocol))
        else:
            head = b"" if classes == 10 else b"\x07"  # the coarse label comes first
            rows = [
                head + struct.pack("B", label) + row.tobytes()
                for row, label in zip(pixels, labels, strict=True)
            ]
            (folder / root / f"{name}.bin").write_bytes(b"".join(rows))
    return held


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("version", ["python", "binary"])
def test_both_versions_hold_what_was_written(tmp_path: Path, classes: Any, version: str) -> None:
    held = written(tmp_path, classes, version)
    train, test = cifar.load(classes, tmp_path)
    assert train.name == f"CIFAR-{classes} train"
    for images, names in ((train, FILES[classes][:-1]), (test, FILES[classes][-1:])):
        pixels = np.concatenate([held[name][0] for name in names]).reshape(-1, 3, 32, 32)
        labels = [label for name in names for label in held[name][1]]
        assert images.pixels.numpy().tolist() == pixels.tolist()
        assert images.labels.tolist() == labels
    inputs = train.normalised(train.pixels)
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    assert test.mean == train.mean


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_any_protocol(tmp_path: Path, protocol: int) -> None:
    held = written(tmp_path, 100, "python", protocol)
    _, test = cifar.load(100, tmp_path / "cifar-100-python")  # the folder itself serves too
    assert test.labels.tolist() == held["test"][1]
    assert test.pixels.flatten(1).tolist() == held["test"][0].tolist()


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_hostile_pickle_executes_nothing(tmp_path: Path) -> None:
    written(tmp_path, 100, "python")
    file, touched = tmp_path / "cifar-100-python" / "train", tmp_path / "touched"
    file.write_bytes(pickle.dumps({b"data": Hostile(touched), b"fine_labels": [1]}))
    with pytest.raises(DataError, match=r"train asks for posix\.system, which no array needs"):
        cifar.load(100, tmp_path)
    assert not touched.exists()


def damaged() -> dict[str, Any]:
    pixels, labels = batch(PER_BATCH, 100)
    good = {b"data": pixels, b"fine_labels": labels}
    return {
        "no dictionary": [1, 2],
        "no data": {b"fine_labels": labels},
        "labels missing": good | {b"fine_labels": labels[:-1]},
        "labels that are texts": good | {b"fine_labels": ["a"] * PER_BATCH},
        "label of no class": good | {b"fine_labels": [100] * PER_BATCH},
        "floats": good | {b"data": pixels.astype(np.float32)},
        "objects": good | {b"data": np.array([[None]])},
        "columns": good | {b"data": np.asfortranarray(pixels)},
        "too narrow": good | {b"data": pixels[:, :3000]},
    }


@pytest.mark.parametrize("name", damaged())
def test_other_pickles_are_refused(tmp_path: Path, name: str) -> None:
    written(tmp_path, 100, "python")
    file = tmp_path / "cifar-100-python" / "train"
    file.write_bytes(pickle.dumps(damaged()[name], protocol=2))
    with pytest.raises(DataError, match=r"cifar-100-python/train .*fetch it again"):
        cifar.load(100, tmp_path)


def test_torn_files_are_refused(tmp_path: Path) -> None:
    written(tmp_path, 10, "binary")
    file = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin holds 12291 bytes, no multiple"):
        cifar.load(10, tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"CIFAR-10 is not in .*: unpack its archive there"):
        cifar.load(10, tmp_path)
    written(tmp_path, 100, "python")
    file = tmp_path / "cifar-100-python" / "test"
    for cut in (0, 1, 100, len(file.read_bytes()) - 1):
        torn = file.read_bytes()[:cut]
        (tmp_path / "torn").mkdir(exist_ok=True)
        (tmp_path / "torn" / "train").write_bytes(torn)
        with pytest.raises(DataError, match="fetch it again"):
            cifar.load(100, tmp_path / "torn")


def test_what_a_hostile_array_could_ask_for(tmp_path: Path) -> None:
    """A shape that the bytes do not fill would read beyond them."""
    written(tmp_path, 100, "python")
    file = tmp_path / "cifar-100-python" / "train"
    pixels, labels = batch(PER_BATCH, 100)
    content = pickle.dumps({b"data": pixels, b"fine_labels": labels}, protocol=2)
    wider = content.replace(b"M\x00\x0c", b"M\x00\x7f")  # 3072 becomes 32512
    assert wider != content
    file.write_bytes(wider)
    with pytest.raises(DataError, match="cut short"):
        cifar.load(100, tmp_path)


def test_both_are_tasks_of_a_recipe(tmp_path: Path) -> None:
    for classes in (10, 100):
        written(tmp_path, classes, "binary")
        options = {"folder": tmp_path, "train_images": 3, "batch_size": 2, "calibration": 2}
        task = TASKS[f"cifar-{classes}"](**options)
        assert (len(task.train), len(task.test)) == (3, PER_BATCH)
        assert task.stream.batch(0)[0].shape == (2, 3, 32, 32)
