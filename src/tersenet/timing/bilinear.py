"""Latency as a bilinear function of the widths of adjacent layers, fitted to measurements.

    E(s) = a_0 + Σ_j a_j s_j s_{j+1},   a ≥ 0,

with s_j the share of its channels that a layer keeps. Yang, Zhu, Liu, "ECC: Platform-Independent
Energy-Constrained Deep Neural Network Compression via a Bilinear Regression Model", 2019,
arXiv:1812.01803. The widths within a budget come from the same knapsack as with a measured
table, whose staircase a bilinear function smooths over.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import MeasureError
from tersenet.graph import Graph, remove
from tersenet.timing.files import FileTimer
from tersenet.timing.plan import MANY
from tersenet.timing.width_costs import Costs, SiteWidths, widths_of

__all__ = ["BilinearLatency", "fit_bilinear", "latency_model", "r_squared"]

_EACH: Final = 5  # networks to time for each coefficient
_FEWEST: Final = 32


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class BilinearLatency(Costs):
    """E(s) of one network, as a share of the original's time: its constant is a_0."""

    slopes: Mapping[SiteWidths, float]
    """a_j, by layer: one for each product s_j s_{j+1} that differs."""
    r_squared: float
    """Each network judged by a fit that did not see it."""

    def layer_ms(self, layer: SiteWidths, counts: Mapping[str, int]) -> float:
        """Returns a_j s_j s_{j+1}."""
        return self.slopes[layer] * layer.product(counts, self.sizes)


def latency_model(
    subject: Subject,
    graph: Graph,
    options: Mapping[str, Sequence[int]],
    *,
    batch: int = 1,
    samples: int | None = None,
    folds: int = 4,
    seed: int = 0,
    bench: Workbench | None = None,
) -> BilinearLatency:
    """Times networks of random widths and fits E(s) to them.

    Args:
        subject: the network and where it will run.
        graph: its structure.
        options: the counts to draw from, for each group.
        batch: samples in one inference.
        samples: networks to time; without, five for each coefficient that is fitted.
        folds: parts of these, each judged by a fit to the others: with one part held out alone,
            the figure would depend on which. The slopes are fitted to all.
        seed: of the widths drawn: over all samples, each group takes its counts equally often.
        bench: told of the progress.

    Raises:
        MeasureError: if there are too few samples for the coefficients, or a file cannot be timed.
        ExportError: if a network cannot be written for the runtime.
    """
    sizes = {name: graph.by_name[name].size for name in options}
    layers = _distinct(widths_of(graph, [graph.by_name[name] for name in options]))
    samples = max(_FEWEST, _EACH * (len(layers) + 1)) if samples is None else samples
    if samples - -(-samples // folds) <= len(layers):
        raise MeasureError(
            f"{samples} networks in {folds} parts, each judged by the others, cannot fit and judge "
            f"{len(layers) + 1} coefficients: time {2 * len(layers) + 4} or more."
        )
    drawn = _draws(options, samples, np.random.default_rng(seed))
    shares = _time(subject, graph, drawn, batch, bench or Workbench())
    terms = np.array([[layer.product(counts, sizes) for layer in layers] for counts in drawn])
    constant, slopes = fit_bilinear(terms, shares)
    return BilinearLatency(
        layers=layers,
        sizes=sizes,
        constant=constant,
        slopes=dict(zip(layers, slopes.tolist(), strict=True)),
        r_squared=r_squared(shares, _unseen(terms, shares, folds)),
    )


def _draws(
    options: Mapping[str, Sequence[int]], samples: int, generator: np.random.Generator
) -> list[dict[str, int]]:
    """Returns widths by Latin hypercube sampling (McKay, Beckman, Conover, 1979)."""
    columns = {
        name: [counts[place * len(counts) // samples] for place in generator.permutation(samples)]
        for name, counts in options.items()
    }
    return [{name: int(own[i]) for name, own in columns.items()} for i in range(samples)]


def fit_bilinear(
    terms: Float[np.ndarray, "sample term"], cost: Float[np.ndarray, " sample"]
) -> tuple[float, Float[np.ndarray, " term"]]:
    """Returns a_0 and a ≥ 0 of least squares.

    More channels never make a network faster; a negative slope is noise, and would have the
    search widen layers to save time. a_0 is free: it is two terms of opposite sign.
    """
    ones = np.ones(len(terms))
    found, _ = nnls(np.column_stack([ones, -ones, terms]), cost)
    return float(found[0] - found[1]), found[2:]


def _unseen(
    terms: Float[np.ndarray, "sample term"], cost: Float[np.ndarray, " sample"], folds: int
) -> Float[np.ndarray, " sample"]:
    """Returns the cost of each sample by a fit to the other parts."""
    found = np.empty(len(cost))
    for fold in range(folds):
        out = np.arange(len(cost)) % folds == fold
        constant, slopes = fit_bilinear(terms[~out], cost[~out])
        found[out] = constant + terms[out] @ slopes
    return found


def r_squared(
    measured: Float[np.ndarray, " sample"], predicted: Float[np.ndarray, " sample"]
) -> float:
    """Returns the share of the variance that is explained; below zero, the mean does better."""
    rest = float(np.square(measured - predicted).sum())
    return 1 - rest / float(np.square(measured - measured.mean()).sum())


def _distinct(layers: Sequence[SiteWidths]) -> list[SiteWidths]:
    """Returns one layer for each product of shares: layers between the same groups share one."""
    found = {}
    for layer in layers:
        sides = (
            tuple(sorted((name, each / whole) for name, each in parts.items()))
            for whole, parts in zip(layer.shape, layer.per_unit, strict=True)
        )
        key = tuple(sorted(sides))
        if layer.names:
            found.setdefault(key, layer)
    return list(found.values())


def _time(
    subject: Subject,
    graph: Graph,
    drawn: Sequence[Mapping[str, int]],
    batch: int,
    bench: Workbench,
) -> np.ndarray:
    """Returns the time of each choice of widths, as a share of the original's."""

    def smaller(counts: Mapping[str, int]) -> nn.Module:
        sizes = {name: graph.by_name[name].size for name in counts}
        less = {name: range(n) for name, n in counts.items() if n < sizes[name]}
        return remove(copy.deepcopy(subject.model), graph, less)[0]

    original = subject.original or subject.model
    timer = FileTimer(original, subject.example, subject.deployment, batch, bench, plan=MANY)
    times = timer.time(*(partial(smaller, counts) for counts in drawn))
    return np.array([1 / speedup.ratio for speedup in times])
