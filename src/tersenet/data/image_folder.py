"""Any folder of images, one folder a class: train/CLASS/*, and test/CLASS/* or val/CLASS/*."""

import importlib
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from tersenet.data.images import Images, statistics
from tersenet.errors import DataError

__all__ = ["load"]

SUFFIXES: Final = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp"))
TEST: Final = ("test", "val")


def load(folder: Path, *, pixels: int, channels: Literal[1, 3]) -> tuple[Images, Images]:
    """Returns the training and the test images, normalised by the training images' statistics.

    Each is scaled so that its shorter side has `pixels`, and its middle is cut out; all are held
    in memory, as bytes. Classes are numbered in the order of their names.

    Raises:
        DataError: if there are no images, the classes of the splits differ, an image cannot be
            read, or Pillow is not installed.
    """
    pillow = _pillow()
    held = next((folder / name for name in TEST if (folder / name).is_dir()), folder / TEST[0])
    splits = {"train": _files(folder / "train"), "test": _files(held)}
    classes = sorted(splits["train"])
    strange = sorted(set(splits["test"]) - set(classes))
    if strange:
        raise DataError(
            f"{held} has the class '{strange[0]}', of which {folder / 'train'} has no images: give "
            "both folders the same classes."
        )
    found = {}
    for split, files in splits.items():
        numbered = [(path, classes.index(name)) for name, paths in files.items() for path in paths]
        images = [_image(pillow, path, pixels, channels) for path, _ in numbered]
        found[split] = (torch.from_numpy(np.stack(images)), [label for _, label in numbered])
    mean, std = statistics(found["train"][0])
    train, test = (
        Images(
            pixels=images,
            labels=torch.tensor(labels),
            mean=mean,
            std=std,
            name=f"{folder.name} {split}",
        )
        for split, (images, labels) in found.items()
    )
    return train, test


def _pillow() -> Any:
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise DataError(
            "a folder of images needs the package Pillow, which is not installed: install "
            "'tersenet[images]'."
        ) from error


def _files(root: Path) -> dict[str, list[Path]]:
    """Returns the images of each class by its name, in order."""
    if not root.is_dir():
        raise DataError(
            f"{root} does not exist: give a folder with train/CLASS/* and test/CLASS/*."
        )
    found = {
        path_.name: sorted(path for path in path_.iterdir() if path.suffix.lower() in SUFFIXES)
        for path_ in sorted(root.iterdir())
        if path_.is_dir() and not path_.name.startswith(".")
    }
    empty = [name for name, paths in found.items() if not paths]
    if not found or empty:
        where = root / empty[0] if empty else root
        raise DataError(
            f"{where} holds no images ({', '.join(sorted(SUFFIXES))}): give every class a folder "
            "with some, or take the folder away."
        )
    return found


def _image(pillow: Any, path: Path, pixels: int, channels: int) -> np.ndarray:
    try:
        with pillow.open(path) as file:
            image = file.convert("L" if channels == 1 else "RGB")
            scale = pixels / min(image.size)
            size = tuple(max(pixels, round(scale * side)) for side in image.size)
            image = image.resize(size, pillow.Resampling.BILINEAR)
            left, top = ((side - pixels) // 2 for side in size)
            cut = np.asarray(image.crop((left, top, left + pixels, top + pixels)))
    except Exception as error:  # decoders raise whatever they like
        raise DataError(
            f"{path} cannot be read as an image ({type(error).__name__}): remove it or save it "
            "again."
        ) from error
    return cut.reshape(pixels, pixels, channels).transpose(2, 0, 1).copy()
