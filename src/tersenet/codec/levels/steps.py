"""Weights to levels: the nearest, or those that are worth their bits.

A level is an integer, and a weight is `level * step`. Three quantisers share that rule:

    nearest      each weight to its nearest level: the baseline
    rd_levels    levels that minimise  sum_i F_i * (q_i - w_i)**2 + lam * bits  against the
                 live contexts of the coder; `fisher` gives F per weight (the diagonal of
                 the Fisher information), without it F is 1 and the distortion plain
    dependent    an option of `rd_levels`: the levels of the 8-state trellis

Wiedemann et al., "DeepCABAC", 2019, arXiv:1907.11900, for the weighting by F.
"""

from math import log
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tersenet.codec.arithmetic import bins
from tersenet.codec.arithmetic.layout import PayloadLayout
from tersenet.codec.levels import rates, trellis
from tersenet.codec.levels.quantised import update_order

SEGMENT: Final = 1 << 20
"""Weights after which the trellis is settled: what bounds its memory."""

LEARN: Final = 1 << 15
"""Weights from which the costs of the rest are learnt."""

LARGEST: Final = 2**31 - 4
"""Levels that leave the trellis room for its candidates."""


def nearest(weights: ArrayLike, step: float) -> NDArray[np.int32]:
    """The nearest level of each weight; halves go away from zero.

    Raises:
        ValueError: The step is not positive, or a weight is not finite or needs a level
            beyond 32 bits.
    """
    scaled = check_step(np.asarray(weights), step)
    return np.copysign(np.floor(np.abs(scaled) + 0.5), scaled).astype(np.int32)


def dequantise(levels: ArrayLike, step: float) -> NDArray[np.float32]:
    """The weights that levels stand for."""
    return (np.asarray(levels) * np.float64(step)).astype(np.float32)


def short_step(step: float) -> float:
    """The nearest step of 8 significant bits, which a container holds in two bytes instead of four.

    For whoever is free to choose, before choosing levels. Where a 16-bit float has none, beyond
    its range, the nearest 32-bit float.
    """
    whole = np.float32(step)
    bits = (int(whole.view(np.uint32)) + 0x8000) & 0xFFFF0000
    found = float(np.uint32(bits).view(np.float32))
    return found if 0 < found < float("inf") else float(whole)


def slope(step: float, *, dependent: bool = False) -> float:
    """The lambda that balances step and rate, in squared weight per bit.

    Where bits are plenty, a uniform quantiser's distortion D = step**2 / 12 falls by
    2 * ln(2) * D per bit: spending bits where they buy less than that is waste. The
    trellis' step is half the spacing of either of its quantisers, hence the factor 4, and
    0.7 is what the trellis' own gain leaves of it.
    """
    return step**2 * log(2) / 6 * (4 * 0.7 if dependent else 1)


def rd_levels(
    weights: ArrayLike,
    step: float,
    *,
    lam: float | None = None,
    fisher: ArrayLike | None = None,
    dependent: bool = False,
    unary: int = bins.UNARY,
    scan: int = 0,
    base: NDArray[Any] | None = None,
) -> NDArray[np.int32]:
    """Levels that are worth their bits.

    Args:
        weights: A tensor of any shape.
        step: What a level is worth.
        lam: What a bit is worth, in units of F times squared weight; None takes
            `slope(step)` times the mean of F. With 0 and `dependent` only the distortion
            counts.
        fisher: F, not negative, in the shape of the weights.
        dependent: Uses the trellis: encode with `encode_levels(..., dependent=True)`.
            At equal distortion take a step of about 0.6 times the uniform one.
        unary: As given to the coder.
        scan: As given to the coder: along the trellis the order counts.
        base: The tensor that the levels will update, as given to `Quantised`: the order
            again. Not with a scan.

    Raises:
        ValueError: As `nearest`; or `fisher` or `base` has another shape, or `fisher` is
            negative.
    """
    weights = np.asarray(weights)
    check_step(weights, step)
    flat = np.ascontiguousarray(weights, dtype=np.float32).reshape(-1)
    if base is not None and (scan or base.shape != weights.shape):
        raise ValueError(f"A base of {base.shape} for weights of {weights.shape}, scan {scan}.")
    layout = PayloadLayout(shape=weights.shape, scan=scan)
    order = layout.order() if base is None else update_order(base)
    flat = flat if order is None else flat[order]
    importance, mean = np.zeros(0, np.float32), 1.0
    if fisher is not None:
        importance = _importance(np.asarray(fisher), weights.shape)
        mean = float(np.asarray(fisher).mean(dtype=np.float64)) if importance.size else 1.0
        importance = importance if order is None else importance[order]
    if lam is None:
        lam = slope(step, dependent=dependent) * mean
    models = bins.fresh_contexts(unary)
    weight, scale = float(lam / step**2), float(1 / step)
    if dependent:
        levels = _along_the_trellis(flat, scale, importance, weight, unary, models)
    else:
        levels = np.empty(flat.size, np.int32)
        trellis.rd_uniform(flat, scale, importance, weight, unary, models, levels)
    if order is not None:
        scanned, levels = levels, np.empty_like(levels)
        levels[order] = scanned
    return levels.reshape(weights.shape)


def _importance(fisher: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """F as the kernels take it. Raises as `rd_levels`."""
    if fisher.shape != shape:
        raise ValueError(f"fisher has shape {fisher.shape}, the weights {shape}.")
    if not (np.isfinite(fisher).all() and (fisher >= 0).all()):
        raise ValueError("fisher holds values that are negative or not finite.")
    return np.ascontiguousarray(fisher, dtype=np.float32).reshape(-1)


def _along_the_trellis(
    flat: NDArray[np.float32],
    scale: float,
    importance: NDArray[np.float32],
    weight: float,
    unary: int,
    models: NDArray[np.int32],
) -> NDArray[np.int32]:
    """The levels of the cheapest path: first against live contexts, then against their averages.

    The coder's estimates are noisy; a path chosen against what they are on average needs fewer
    bits of them. The first path is that of a part, where there are many weights.
    """
    levels = np.empty(flat.size, np.int32)
    head = flat[: LEARN if flat.size > 4 * LEARN else flat.size]
    trellis.rd_dependent(head, scale, importance[: head.size], weight, unary, models, levels, 0)
    if flat.size <= trellis.BLOCK or (weight == 0 and head.size == flat.size):
        return levels  # too few to say what is usual, or nothing to ask
    counts = np.full((len(models), 2), 0.4)
    trellis.count_bins(levels[: head.size], unary, counts)
    bits = -np.log2(counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    flags = np.zeros((bins.SIGN, 3), np.float32)
    sizes = np.zeros((2, rates.TABLE + bins.PREFIXES), np.float32)
    if weight > 0:
        rates.spread(bits, unary, np.float32(weight), flags, sizes)
    state = 0
    for begin in range(0, flat.size, SEGMENT):
        part = slice(begin, begin + SEGMENT)
        state = trellis.rd_dependent_settled(
            flat[part], scale, importance[part], flags, sizes, unary, levels[part], state
        )
    return levels


def check_step(weights: NDArray[np.generic], step: float) -> NDArray[np.float64]:
    """The weights in units of the step. Raises as `nearest`."""
    if not (step > 0 and np.isfinite(step)):
        raise ValueError(f"The step must be positive, not {step}.")
    scaled = np.asarray(weights.astype(np.float64) / step, np.float64)
    largest = float(np.abs(scaled).max()) if scaled.size else 0.0
    if not largest <= LARGEST:
        raise ValueError(
            f"The largest weight is {largest:.3g} steps: not finite, or beyond 32-bit levels. "
            "Take a larger step."
        )
    return scaled
