"""Levels that make up for each other: error feedback, with the rate in the loss.

A layer that multiplies inputs x by rows w loses, to second order, sum over pairs of rows
of G_rs * (w_r - q_r) A (w_s - q_s)ᵀ, with A the second moment of its inputs and G that of
the gradient by its outputs: the Fisher information of a layer as a Kronecker product. Once
a weight is quantised, those that come later move to where they undo the most of its error
(the optimal brain surgeon's update), and the level itself is chosen by what it loses then
plus lambda times the bits that the coder's live contexts ask for it.

Hassibi and Stork, "Second order derivatives for network pruning", NIPS 1992; Frantar et
al., "GPTQ", 2022, arXiv:2210.17323, for the Cholesky form; Conzelmann and Bamler,
"Reducing storage of pretrained neural networks by rate-constrained quantization and
entropy coding" (CERWU), 2025, arXiv:2505.18758, for the rate in the loss; Martens and
Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", 2015,
arXiv:1503.05671, for the second factor.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tersenet.codec.arithmetic import bins
from tersenet.codec.levels import feedback_kernels
from tersenet.codec.levels.steps import check_step

__all__ = ["FeedbackLevels", "inverse_factor", "rd_feedback"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FeedbackLevels:
    """Levels, and what they cost by the model that chose them."""

    levels: NDArray[np.int32]
    distortion: float
    """The quadratic form of the errors, in units of the factors times squared weight."""
    bits: float
    """Estimated from the contexts as they adapt."""


def inverse_factor(moment: ArrayLike, *, damping: float = 0.01) -> NDArray[np.float64]:
    """The upper triangular U with UᵀU = (moment + damping * mean(diagonal) * I)⁻¹.

    Raises:
        ValueError: The moment is not square, not finite or not a second moment.
    """
    moment = np.array(moment, dtype=np.float64)
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1] or not np.isfinite(moment).all():
        raise ValueError(f"A second moment is square and finite, not of shape {moment.shape}.")
    mean = float(np.trace(moment)) / max(len(moment), 1)
    moment[np.diag_indices_from(moment)] += damping * mean if mean > 0 else 1.0
    # With H = LLᵀ taken from the last row up, H⁻¹ = UᵀU without inverting H itself.
    try:
        flipped = np.linalg.cholesky(moment[::-1, ::-1])
    except np.linalg.LinAlgError:
        raise ValueError("A second moment has no negative direction: raise damping.") from None
    upper = flipped[::-1, ::-1]
    return np.ascontiguousarray(np.linalg.solve(upper, np.eye(len(upper))), np.float64)


def rd_feedback(
    weights: ArrayLike,
    step: float,
    *,
    lam: float,
    columns: NDArray[np.float64],
    rows: NDArray[np.float64] | None = None,
    dependent: bool = False,
) -> FeedbackLevels:
    """Levels of a matrix whose errors make up for each other.

    Weights of exactly zero stay zero: they were pruned.

    Args:
        weights: (row, column): one row per output; a convolution's kernels flattened.
        step: What a level is worth.
        lam: What a bit is worth, in units of the factors times squared weight.
        columns: `inverse_factor` of the inputs' second moment.
        rows: `inverse_factor` of the output gradients'; None treats rows alike and apart.
        dependent: Uses the trellis: encode with `encode_levels(..., dependent=True)`.

    Raises:
        ValueError: As `nearest`; or a factor has another size than the matrix.
    """
    matrix = np.asarray(weights)
    if matrix.ndim != 2:
        raise ValueError(f"Feedback runs along the rows of a matrix, not a {matrix.shape} array.")
    height, width = matrix.shape
    rows = np.eye(height) if rows is None else np.ascontiguousarray(rows, np.float64)
    columns = np.ascontiguousarray(columns, np.float64)
    if columns.shape != (width, width) or rows.shape != (height, height):
        raise ValueError(
            f"Factors of {columns.shape} and {rows.shape} for a {matrix.shape} matrix."
        )
    scaled = np.ascontiguousarray(check_step(matrix, step))
    models = bins.fresh_contexts(bins.UNARY)
    levels = np.empty(matrix.shape, np.int32)
    quantise = feedback_kernels.feedback_uniform
    if dependent:
        quantise = feedback_kernels.feedback_dependent
    distortion, bits = quantise(
        scaled, columns, rows, float(lam / step**2), models, levels, matrix == 0
    )
    return FeedbackLevels(levels=levels, distortion=float(distortion * step**2), bits=float(bits))
