"""A task: what a network is for, as the data it learns from and is judged on."""

from dataclasses import dataclass
from typing import final

from torch import nn

from tersenet.core.types import Deployment, Subject
from tersenet.data import Images, TrainingStream
from tersenet.errors import DataError
from tersenet.train.evaluate import TopOne
from tersenet.train.loss import summed_cross_entropy

__all__ = ["Classification"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Classification:
    """Images with one label each, judged by top-1 accuracy on `test`."""

    train: Images
    test: Images
    batch_size: int = 128
    pad: int = 0
    """Pixels of padding for random crops while training."""
    flip: bool = False
    """Whether training images are mirrored at random."""
    cutout: int = 0
    """Side of a square at a random place of each training image that is hidden, in pixels."""
    calibration: int = 512
    """Training images, unaugmented, to observe activations and check files on."""
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.train) < self.batch_size:
            raise DataError(
                f"{self.train.name} has {len(self.train)} images, fewer than one batch of "
                f"{self.batch_size}: lower batch_size or give more data."
            )
        if self.calibration < 1:
            raise DataError(
                f"calibration is {self.calibration}, which leaves no images to observe "
                "activations and check files on: take at least 1."
            )

    @property
    def stream(self) -> TrainingStream:
        """The endless training batches."""
        return TrainingStream(
            images=self.train,
            batch_size=self.batch_size,
            seed=self.seed,
            pad=self.pad,
            flip=self.flip,
            cutout=self.cutout,
        )

    @property
    def quality(self) -> TopOne:
        """Top-1 accuracy on the test images."""
        return TopOne(self.test)

    def subject(self, model: nn.Module, *, deployment: Deployment | None = None) -> Subject:
        """Returns what methods receive: `model` with this task's data, loss and quality."""
        calibration = list(self.train.head(self.calibration).batches(128))
        return Subject(
            model=model,
            example=(calibration[0][0][:2],),
            calibration=calibration,
            loss=summed_cross_entropy,
            quality=self.quality,
            original=model,
            training=self.stream,
            deployment=deployment or Deployment(),
        )
