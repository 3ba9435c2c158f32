"""The change of a loss to second order, and the surgery that follows from it.

    δE = Σ g_i δu_i + ½ Σ h_ii δu_i² + ½ Σ_{i≠j} h_ij δu_i δu_j + O(‖δU‖³)

LeCun, Denker, Solla, "Optimal Brain Damage", 1990, keeps the second sum alone; Hassibi, Stork,
"Second order derivatives for network pruning: Optimal Brain Surgeon", 1993, keeps the last two.
Everything here is exact where the loss is a quadratic.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tersenet.errors import StructureError

__all__ = ["damage", "second_order_change", "surgeon"]


def second_order_change(
    change: Float[Tensor, " weight"],
    gradient: Float[Tensor, " weight"],
    hessian: Float[Tensor, "weight weight"],
) -> Float[Tensor, ""]:
    """Returns δE when the weights change by `change`: all three sums."""
    diagonal = hessian.diagonal()
    mixed = hessian - torch.diag(diagonal)
    return gradient @ change + 0.5 * diagonal @ change.square() + 0.5 * change @ mixed @ change


def damage(
    weight: Float[Tensor, "*weight"], diagonal: Float[Tensor, "*weight"]
) -> Float[Tensor, "*weight"]:
    """Returns each weight's saliency, h_ii w_i² / 2: the rise in loss if it alone were zeroed.

    At a minimum, where the gradient is zero.
    """
    return 0.5 * diagonal * weight.square()


def surgeon(
    weight: Float[Tensor, " weight"], hessian: Float[Tensor, "weight weight"], *, index: int
) -> tuple[Float[Tensor, ""], Float[Tensor, " weight"]]:
    """Returns the rise in loss if one weight goes and the others make up for it, and how.

    L_q = w_q² / (2 [H⁻¹]_qq) and δw = −w_q / [H⁻¹]_qq · H⁻¹ e_q, at a minimum of the loss.

    Raises:
        StructureError: if the Hessian is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if failed.item():
        raise StructureError(
            f"the Hessian of {len(weight)} weights is not positive definite, so no best change "
            "of the other weights exists: add a small multiple of the identity to it."
        )
    unit = torch.zeros_like(weight)
    unit[index] = 1
    column = torch.cholesky_solve(unit[:, None], factor)[:, 0]  # H⁻¹ e_q
    saliency = weight[index].square() / (2 * column[index])
    return saliency, -weight[index] / column[index] * column
