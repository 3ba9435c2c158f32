"""Weights to a few shared values: k-means, logarithmic, powers of two.

    kmeans         the k values of least squared error, weighed by F: the optimum, by dynamic
                   programming over sorted weights
    logarithmic    zero and ±largest * 2**(-i / per_octave): finer near zero, as weights lie
    powers_of_two  zero and ±2**n: multiplying is shifting

Han, Mao, Dally, "Deep compression", 2016, arXiv:1510.00149, for shared values; Wang and Song,
"Ckmeans.1d.dp", The R Journal 2011, for the optimum in one dimension; Miyashita, Lee, Murmann,
2016, arXiv:1603.01025, for logarithmic values; Zhou et al., "Incremental network quantization",
2017, arXiv:1702.03044, for powers of two.
"""

from math import ceil, floor, log2
from typing import Final, no_type_check

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tersenet.codec.arithmetic.jit import kernel
from tersenet.codec.levels.quantised import Quantised, zero_of

__all__ = ["kmeans", "logarithmic", "powers_of_two", "to_codebook"]

POINTS: Final = 4096
"""Weights, or groups of neighbouring ones, that the optimum is sought over."""


def to_codebook(weights: ArrayLike, values: ArrayLike) -> Quantised:
    """The weights as indices of their nearest values.

    Raises:
        ValueError: The values are none or too many, or something is not finite.
    """
    matrix = np.asarray(weights, np.float32)
    book = np.unique(np.asarray(values, np.float32))
    if not np.isfinite(matrix).all():
        raise ValueError("A weight is not finite.")
    middles = (book[1:].astype(np.float64) + book[:-1]) / 2
    levels = np.searchsorted(middles, matrix).astype(np.int32) - np.int32(zero_of(book))
    return Quantised(levels=np.asarray(levels, np.int32), step=1.0, codebook=book)


def kmeans(
    weights: ArrayLike, count: int, *, fisher: ArrayLike | None = None
) -> NDArray[np.float32]:
    """The `count` values of least sum of F * squared error, in ascending order.

    Exact up to 4,096 distinct weights; beyond, of so many groups of neighbours. Weights of
    exactly zero keep a value of their own, so that what was pruned stays zero.

    Raises:
        ValueError: `count` is not positive, or `fisher` has another shape or is negative.
    """
    flat = np.asarray(weights, np.float64).reshape(-1)
    f = np.ones_like(flat) if fisher is None else np.asarray(fisher, np.float64).reshape(-1)
    if count < 1 or f.shape != flat.shape or (f < 0).any():
        raise ValueError(f"{count} values for {flat.size} weights and an F of {f.size}.")
    pruned = bool((flat == 0).any()) and count > 1
    f, flat = f[flat != 0] if pruned else f, flat[flat != 0] if pruned else flat
    points, mass = _groups(flat, f)
    found = _means(points, mass, min(count - pruned, len(points)))
    return np.unique(np.append(found, 0.0) if pruned else found).astype(np.float32)


def logarithmic(weights: ArrayLike, count: int, *, per_octave: int = 1) -> NDArray[np.float32]:
    """Zero, and about (count - 1) / 2 values of each sign that fall from the largest weight."""
    largest = float(np.abs(np.asarray(weights)).max(initial=0.0)) or 1.0
    sizes = largest * 2.0 ** (-np.arange(max(1, (count - 1) // 2)) / per_octave)
    return np.unique(np.concatenate((-sizes, [0.0], sizes))).astype(np.float32)


def powers_of_two(weights: ArrayLike, count: int) -> NDArray[np.float32]:
    """Zero, and about (count - 1) / 2 powers of two of each sign, the largest at most 4/3 w."""
    largest = float(np.abs(np.asarray(weights)).max(initial=0.0)) or 1.0
    top = floor(log2(4 * largest / 3))
    sizes = 2.0 ** (top - np.arange(max(1, ceil((count - 1) / 2))))
    return np.unique(np.concatenate((-sizes, [0.0], sizes))).astype(np.float32)


def _groups(
    flat: NDArray[np.float64], f: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distinct weights in ascending order with their mass, or groups of them."""
    points, where = np.unique(flat, return_inverse=True)
    mass = np.bincount(where, weights=f, minlength=len(points))
    if len(points) > POINTS:
        group = np.arange(len(points)) * POINTS // len(points)
        total = np.bincount(group, weights=mass)
        moment = np.bincount(group, weights=mass * points)
        plain = np.bincount(group, weights=points) / np.bincount(group)
        points = np.where(total > 0, moment / np.where(total > 0, total, 1), plain)
        mass = total
    # What has no mass would leave a value undefined.
    return points, np.maximum(mass, 1e-12 * max(mass.max(initial=0.0), 1e-300))


def _means(
    points: NDArray[np.float64], mass: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """The means of the `count` runs of points that have the least squared error."""
    sums = [np.concatenate(([0.0], np.cumsum(mass * points**power))) for power in (0, 1, 2)]
    starts = _best_runs(sums[0], sums[1], sums[2], count)
    ends = [*starts[1:], len(points)]
    return np.array(
        [(sums[1][b] - sums[1][a]) / (sums[0][b] - sums[0][a])
         for a, b in zip(starts, ends, strict=True)]
    )  # fmt: skip


@no_type_check
@kernel
def _best_runs(mass, first, second, count):
    """Where each of `count` runs begins, from the running sums of mass, moment and square.

    The best start of the last run moves up with its end: each row of the table is filled by
    dividing at its middle, in n log n.
    """
    n = len(mass) - 1
    least = np.empty(n + 1)
    least[0] = 0.0
    for end in range(1, n + 1):
        least[end] = second[end] - first[end] ** 2 / mass[end]
    begins = np.zeros((count, n + 1), np.int64)
    stack = np.empty((2 * n + 8, 4), np.int64)
    for run in range(1, count):
        new = np.full(n + 1, np.inf)
        stack[0] = (run + 1, n, run, n - 1)
        top = 1
        while top:
            top -= 1
            low, high, start, stop = stack[top]
            if low > high:
                continue
            end = (low + high) // 2
            best = start
            for begin in range(start, min(stop, end - 1) + 1):
                moment = first[end] - first[begin]
                error = second[end] - second[begin] - moment**2 / (mass[end] - mass[begin])
                if least[begin] + error < new[end]:
                    new[end], best = least[begin] + error, begin
            begins[run, end] = best
            stack[top] = (low, end - 1, start, best)
            stack[top + 1] = (end + 1, high, best, stop)
            top += 2
        least = new
    starts = np.zeros(count, np.int64)
    end = n
    for run in range(count - 1, 0, -1):
        end = begins[run, end]
        starts[run] = end
    return starts
