"""A folder of images: classes, sizes, and what is refused; needs Pillow."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tersenet.data import image_folder
from tersenet.errors import DataError
from tersenet.train import TASKS


@pytest.fixture
def pillow() -> Any:
    return pytest.importorskip("PIL.Image")


def save(pillow: Any, path: Path, value: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(value).save(path)


@pytest.fixture
def folder(pillow: Any, tmp_path: Path) -> Path:
    """Cats are bright, dogs are dark; wide and high images, grey and coloured."""
    for split, count in (("train", 4), ("val", 2)):
        for name, level in (("cat", 200), ("dog", 40)):
            for i in range(count):
                shape = [(40, 64, 3), (64, 40, 3), (50, 50)][i % 3]
                save(pillow, tmp_path / split / name / f"{i}.png", np.full(shape, level, np.uint8))
    return tmp_path


def test_classes_are_numbered_by_name_and_images_cut_to_size(folder: Path) -> None:
    train, test = image_folder.load(folder, pixels=32, channels=3)
    assert train.pixels.shape == (8, 3, 32, 32)
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert (train.pixels[:4] == 200).all()
    assert (train.pixels[4:] == 40).all()
    assert train.mean == pytest.approx([120 / 255] * 3)
    assert train.std == pytest.approx([80 / 255] * 3)
    grey, _ = image_folder.load(folder, pixels=16, channels=1)
    assert grey.pixels.shape == (8, 1, 16, 16)


def test_the_middle_is_cut_out(pillow: Any, folder: Path) -> None:
    striped = np.zeros((32, 96, 3), np.uint8)
    striped[:, 32:64] = 255
    save(pillow, folder / "train" / "cat" / "0.png", striped)
    train, _ = image_folder.load(folder, pixels=32, channels=3)
    assert (train.pixels[0] == 255).all()


def test_a_task_of_it_calibrates_on_all_classes(folder: Path) -> None:
    task = TASKS["image-folder"](folder=folder, pixels=16, batch_size=4, calibration=6)
    assert set(task.train.head(6).labels.tolist()) == {0, 1}
    inputs, targets = task.stream.batch(0)
    assert inputs.shape == (4, 3, 16, 16)
    assert len(targets) == 4


def test_what_is_refused(pillow: Any, folder: Path) -> None:
    (folder / "val" / "fox").mkdir()
    with pytest.raises(DataError, match=r"fox holds no images"):
        image_folder.load(folder, pixels=16, channels=3)
    save(pillow, folder / "val" / "fox" / "0.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(DataError, match=r"has the class 'fox', of which .*train has no images"):
        image_folder.load(folder, pixels=16, channels=3)
    save(pillow, folder / "train" / "fox" / "0.png", np.zeros((20, 20, 3), np.uint8))
    (folder / "train" / "fox" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"fox/1\.png cannot be read as an image"):
        image_folder.load(folder, pixels=16, channels=3)
    with pytest.raises(DataError, match=r"nowhere/train does not exist"):
        image_folder.load(folder / "nowhere", pixels=16, channels=3)


def test_without_pillow_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DataError, match=r"needs the package Pillow.*'tersenet\[images\]'"):
        image_folder.load(tmp_path, pixels=32, channels=3)
