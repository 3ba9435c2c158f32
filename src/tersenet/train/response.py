"""The loss of learning from another network's softened answers.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
"""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

__all__ = ["response_loss"]


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
