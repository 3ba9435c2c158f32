"""Tasks by the key of a recipe's `data` section."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
from pydantic import Field

from tersenet.core.parts import Parts
from tersenet.data import Images, cifar, fashion_mnist, image_folder
from tersenet.train.task import Classification

__all__ = ["TASKS"]

Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=0, le=1024)]
"""The side of a square, in pixels."""


def load_fashion_mnist(
    *,
    folder: Path | None = None,
    train_images: Annotated[int, Field(ge=1, le=60_000)] = 60_000,
    test_images: Annotated[int, Field(ge=1, le=10_000)] = 10_000,
    batch_size: Count = 128,
    pad: Annotated[int, Field(ge=0, le=14)] = 2,
    flip: bool = True,
    cutout: Side = 0,
    calibration: Count = 512,
) -> Classification:
    """Returns Fashion-MNIST as a task, or the first images of each split.

    Raises:
        DataError: as `fashion_mnist.load`.
    """
    return Classification(
        train=fashion_mnist.load("train", folder).head(train_images),
        test=fashion_mnist.load("test", folder).head(test_images),
        batch_size=batch_size,
        pad=pad,
        flip=flip,
        cutout=cutout,
        calibration=calibration,
    )


def _cifar(classes: Literal[10, 100]) -> Callable[..., Classification]:
    def load_cifar(
        *,
        folder: Path,
        train_images: Annotated[int, Field(ge=1, le=50_000)] = 50_000,
        test_images: Annotated[int, Field(ge=1, le=10_000)] = 10_000,
        batch_size: Count = 128,
        pad: Side = 4,
        flip: bool = True,
        cutout: Side = 0,
        calibration: Count = 512,
    ) -> Classification:
        """Returns CIFAR as a task, or the first images of each split. Raises as `cifar.load`."""
        train, test = cifar.load(classes, folder)
        return Classification(
            train=train.head(train_images),
            test=test.head(test_images),
            batch_size=batch_size,
            pad=pad,
            flip=flip,
            cutout=cutout,
            calibration=calibration,
        )

    return load_cifar


def load_image_folder(
    *,
    folder: Path,
    pixels: Annotated[int, Field(ge=8, le=1024)] = 32,
    channels: Literal[1, 3] = 3,
    batch_size: Count = 128,
    pad: Side = 4,
    flip: bool = True,
    cutout: Side = 0,
    calibration: Count = 512,
) -> Classification:
    """Returns a folder of images as a task: train/CLASS/* and test/CLASS/*, or val/CLASS/*.

    The training images are shuffled once, by a fixed seed: in the order of the folder the first
    ones, which calibrate, would all be of one class. Raises as `image_folder.load`.
    """
    train, test = image_folder.load(folder, pixels=pixels, channels=channels)
    return Classification(
        train=_shuffle(train),
        test=test,
        batch_size=batch_size,
        pad=pad,
        flip=flip,
        cutout=cutout,
        calibration=calibration,
    )


def _shuffle(images: Images) -> Images:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return replace(images, pixels=images.pixels[order], labels=images.labels[order])


TASKS: Final[Parts[Callable[..., Classification]]] = Parts(
    "task", package="tersenet.train", plugins="tersenet.tasks"
)
"""Tasks by the key of a recipe's `data` section."""

TASKS.add("fashion-mnist", load_fashion_mnist)
TASKS.add("cifar-10", _cifar(10))
TASKS.add("cifar-100", _cifar(100))
TASKS.add("image-folder", load_image_folder)
