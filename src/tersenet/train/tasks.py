"""Tasks by the key of a recipe's `data` section."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from tersenet.data import fashion_mnist
from tersenet.train.task import Classification

__all__ = ["TASKS"]

Count = Annotated[int, Field(ge=1)]


def load_fashion_mnist(
    *,
    folder: Path | None = None,
    train_images: Annotated[int, Field(ge=1, le=60_000)] = 60_000,
    test_images: Annotated[int, Field(ge=1, le=10_000)] = 10_000,
    batch_size: Count = 128,
    pad: Annotated[int, Field(ge=0, le=14)] = 2,
    flip: bool = True,
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
        calibration=calibration,
    )


TASKS: Final[dict[str, Callable[..., Classification]]] = {"fashion-mnist": load_fashion_mnist}
