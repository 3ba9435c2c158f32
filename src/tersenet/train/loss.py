"""The loss of a network's outputs, in nats and summed over a batch."""

from torch import Tensor
from torch.nn import functional

from tersenet.core.types import Subject
from tersenet.errors import DataError

__all__ = ["summed_cross_entropy", "summed_loss"]


def summed_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the cross-entropy with class labels in nats, summed over the batch."""
    return functional.cross_entropy(outputs, targets, reduction="sum")


def summed_loss(subject: Subject, outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the subject's loss in nats, summed over the batch; cross-entropy where it has none.

    Raises:
        DataError: if it has none, and the targets are no class labels.
    """
    if subject.loss is not None:
        return subject.loss(outputs, targets)
    if targets.is_floating_point() or targets.ndim != 1:
        raise DataError(
            "the calibration targets are no class labels and the subject has no loss for them: "
            "give its loss."
        )
    return summed_cross_entropy(outputs, targets)
