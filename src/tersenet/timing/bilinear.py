"""Latency as a bilinear function of the widths of adjacent layers, fitted to measurements.

    E(s) = a_0 + Σ_j a_j s_j s_{j+1},   a ≥ 0,

with s_j the share of its channels that a layer keeps. Yang, Zhu, Liu, "ECC: Platform-Independent
Energy-Constrained Deep Neural Network Compression via a Bilinear Regression Model", 2019,
arXiv:1812.01803. The widths within a budget come from the same knapsack as with a measured
table, whose staircase a bilinear function smooths over.
"""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

from tersenet.core.knapsack import Factor
from tersenet.core.types import Subject, Workbench
from tersenet.errors import MeasureError
from tersenet.export import to_onnx
from tersenet.graph import Graph, remove
from tersenet.timing.files import time_files
from tersenet.timing.plan import MANY
from tersenet.timing.width_costs import SiteWidths, as_factors, widths_of

__all__ = ["BilinearLatency", "fit_bilinear", "latency_model", "r_squared"]

_EACH: Final = 5  # networks to time for each coefficient
_FEWEST: Final = 32


@final
@dataclass(frozen=True, eq=False)
class BilinearLatency:
    """E(s) of one network, as a share of the original's time."""

    layers: Sequence[SiteWidths]
    """One for each product s_j s_{j+1} that differs."""
    sizes: Mapping[str, int]
    constant: float
    """a_0."""
    slopes: tuple[float, ...]
    """a_j, by layer."""
    r_squared: float
    """Each network judged by a fit that did not see it."""

    def ms(self, counts: Mapping[str, int]) -> float:
        """Returns E when groups keep `counts` units; named for what costs are, a share here."""
        terms = _products(self.layers, counts, self.sizes)
        return self.constant + sum(a * s for a, s in zip(self.slopes, terms, strict=True))

    def factors(
        self, options: Mapping[str, Sequence[int]], present: Mapping[str, int], *, joint: bool
    ) -> list[Factor]:
        """Returns E as costs of a knapsack."""
        slopes = {id(layer): a for layer, a in zip(self.layers, self.slopes, strict=True)}

        def cost(layer: SiteWidths, counts: Mapping[str, int]) -> float:
            return slopes[id(layer)] * _products([layer], counts, self.sizes)[0]

        found = as_factors(self.layers, cost, options, present, joint=joint)
        return [Factor((), np.array(self.constant)), *found]


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
    terms = np.array([_products(layers, counts, sizes) for counts in drawn])
    constant, slopes = fit_bilinear(terms, shares)
    return BilinearLatency(
        layers=layers,
        sizes=sizes,
        constant=constant,
        slopes=tuple(slopes.tolist()),
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


def _products(
    layers: Sequence[SiteWidths], counts: Mapping[str, int], sizes: Mapping[str, int]
) -> list[float]:
    """Returns s_j s_{j+1} for each layer."""
    found = []
    for layer in layers:
        reads, makes = layer.at(counts, sizes)
        found.append(reads * makes / (layer.shape[0] * layer.shape[1]))
    return found


def _time(
    subject: Subject,
    graph: Graph,
    drawn: Sequence[Mapping[str, int]],
    batch: int,
    bench: Workbench,
) -> np.ndarray:
    """Returns the time of each choice of widths, as a share of the original's."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"original": Path(folder) / "original.onnx"}
        to_onnx(subject.original or subject.model, subject.example, files["original"])
        for i, counts in enumerate(drawn):
            bench.tick("writing networks of random widths", i, len(drawn))
            less = {
                name: range(count)
                for name, count in counts.items()
                if count < graph.by_name[name].size
            }
            model, _ = remove(copy.deepcopy(subject.model), graph, less)
            files[str(i)] = Path(folder) / f"{i}.onnx"
            to_onnx(model, subject.example, files[str(i)])
        bench.tick("timing networks of random widths", 0, 1)
        deployment = replace(subject.deployment, batches=(batch,))
        found = time_files(files, deployment=deployment, plan=MANY, bench=bench)
    return np.array([1 / found[str(i)][0].ratio for i in range(len(drawn))])
