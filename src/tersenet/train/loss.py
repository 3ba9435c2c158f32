"""Losses: of labels, and of another network's softened answers.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
"""

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Subject
from tersenet.errors import DataError

__all__ = ["label_loss", "response_loss", "summed_cross_entropy", "summed_loss"]


def summed_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the cross-entropy with class labels in nats, summed over the batch: a `Loss`."""
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


def label_loss(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, smoothing: float = 0.0
) -> Tensor:
    """Returns the mean cross-entropy with the labels, in nats per sample: an `Objective`."""
    logits = model(inputs).float()  # the sum over classes is not for bf16
    return functional.cross_entropy(logits, targets, label_smoothing=smoothing)


def response_loss(
    student: Float[Tensor, "sample label"],
    teacher: Float[Tensor, "sample label"],
    targets: Int[Tensor, " sample"],
    *,
    temperature: float,
    weight: float,
    hard_weight: float = 1.0,
    squared: bool = False,
) -> Float[Tensor, ""]:
    """Returns the mean of α H(y, S(z_s; 1)) + λ H(S(z_t; τ), S(z_s; τ)), in nats per sample.

    S(z; τ) is the softmax of z/τ and H the cross-entropy. The gradient by the student's
    logits is α (S_s - y) + (λ/τ) (S_s(τ) - S_t(τ)): it fades as 1/τ² for large τ, which
    Hinton's factor τ² (`squared`) undoes.
    """
    hard = functional.cross_entropy(student, targets)
    soft = functional.cross_entropy(student / temperature, (teacher / temperature).softmax(1))
    scale = temperature**2 if squared else 1.0
    return hard_weight * hard + weight * scale * soft
