"""What Elkerdawy et al. claim of filters and layers, arXiv:2007.05667, and what was found."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy.stats import bootstrap

from tersenet.core.findings import Claim, Found, decide
from tersenet.study.layer_vs_filter.bins import Bin
from tersenet.study.layer_vs_filter.random_models import Kind

__all__ = ["claim_at_one_latency", "claims"]

Points = Mapping[Kind, Sequence[Mapping[str, Any]]]
"""What was measured of each model, by how it was pruned."""

_DRAWS: Final = 2000
_FEWEST: Final = 10
"""Models of each kind, below which nothing is decided."""
_FURTHER: Final = 1.3
"""How many times as far layers must reach for their range to be called wider."""
_FEWEST_PAIRS: Final = 5
"""Pairs of one latency, below which nothing is decided."""
_BEHIND: Final = 0.5
"""Points of accuracy that still count as equal."""


def claims(
    points: Points, bins: Sequence[Bin], limits: Mapping[Kind, float], *, batches: Sequence[int]
) -> tuple[Claim, ...]:
    """Returns what was found of each claim; undecided where an interval holds zero.

    Args:
        points: the models, by how they were pruned.
        bins: their accuracies by latency.
        limits: the most that can be saved at the first batch size, in %: by one filter in each
            layer, and without any layer that can go.
        batches: the sizes of their latency reductions.
    """
    found = (
        _reach(points, limits, batches),
        _slower(points, batches),
        _depends(points, batches),
        _in_bins(
            "At one latency, networks with fewer layers vary less in accuracy.",
            bins,
            lambda filters, layers: float(filters.std() - layers.std()),
            "layers deviate less by",
        ),
        _in_bins(
            "At one latency, networks with fewer layers are more accurate.",
            bins,
            lambda filters, layers: float(layers.mean() - filters.mean()),
            "layers are ahead by",
        ),
    )
    if min(map(len, points.values())) >= _FEWEST:
        return found
    few = f" Fewer than {_FEWEST} models of each kind decide nothing."
    return tuple(
        Claim(text=claim.text, found="undecided", evidence=claim.evidence + few) for claim in found
    )


def claim_at_one_latency(pairs: Sequence[Mapping[str, Any]], tried: int) -> Claim:
    """Returns what was found of layers and filters that one criterion chose, equally fast.

    Args:
        pairs: those of one latency.
        tried: how many pairs were measured.
    """
    claim = (
        "By one criterion and at one latency, networks with fewer layers are as accurate, to "
        f"within {_BEHIND:g} points, or more."
    )
    met = f"{len(pairs)} of {tried} pairs came to one latency"
    if not pairs:
        return Claim(text=claim, found="undecided", evidence=f"{met}.")
    ahead = np.array([pair["layer"]["accuracy"] - pair["filter"]["accuracy"] for pair in pairs])
    low, high = _interval(lambda gaps: float(gaps.mean()), ahead)
    names = sorted({pair["criterion"] for pair in pairs})
    evidence = (
        f"{met}, by {', '.join(names)}; layers are ahead by {ahead.mean():+.2f} points on average, "
        f"in [{low:.2f}, {high:.2f}]."
    )
    if len(pairs) < _FEWEST_PAIRS:
        evidence += f" Fewer than {_FEWEST_PAIRS} decide nothing."
        return Claim(text=claim, found="undecided", evidence=evidence)
    return Claim(text=claim, found=decide(low + _BEHIND, high + _BEHIND), evidence=evidence)


def _reach(points: Points, limits: Mapping[Kind, float], batches: Sequence[int]) -> Claim:
    best = {
        kind: max(point["reduction"][0][0] for point in found) for kind, found in points.items()
    }
    found: Found = "undecided"
    if best["layer"] >= _FURTHER * best["filter"]:
        found = "holds"
    elif best["layer"] <= best["filter"]:
        found = "does not hold"
    return Claim(
        text="The latency that removing filters can save is bounded by the depth that stays: "
        f"removing layers saves at least {_FURTHER} times as much at most.",
        found=found,
        evidence=f"At batch {batches[0]} the most that was saved is {best['filter']:.1f} % by "
        f"filters and {best['layer']:.1f} % by layers, of {len(points['filter'])} and "
        f"{len(points['layer'])} models. One filter in each layer saves {limits['filter']:.1f} %, "
        f"none of the layers that can go {limits['layer']:.1f} %.",
    )


def _slower(points: Points, batches: Sequence[int]) -> Claim:
    counts = {
        kind: sum(any(max(part) < 0 for part in point["reduction"]) for point in found)
        for kind, found in points.items()
    }
    return Claim(
        text="A network with fewer filters can be slower than the whole.",
        found="holds" if counts["filter"] else "does not hold",
        evidence=f"{counts['filter']} of {len(points['filter'])} models with fewer filters, and "
        f"{counts['layer']} of {len(points['layer'])} with fewer layers, are slower at batch "
        f"{' or '.join(map(str, batches))} beyond the interval of the measurement.",
    )


def _depends(points: Points, batches: Sequence[int]) -> Claim:
    claim = (
        "What removing filters saves depends on the batch size more than what removing layers does."
    )
    if len(batches) < 2:
        return Claim(text=claim, found="undecided", evidence="One batch size was measured.")
    moved = {
        kind: np.array(
            [abs(point["reduction"][-1][0] - point["reduction"][0][0]) for point in found]
        )
        for kind, found in points.items()
    }
    low, high = _interval(
        lambda filters, layers: float(filters.mean() - layers.mean()),
        moved["filter"],
        moved["layer"],
    )
    return Claim(
        text=claim,
        found=decide(low, high),
        evidence=f"From batch {batches[0]} to {batches[-1]} the reduction moves by "
        f"{moved['filter'].mean():.1f} points on average for filters and "
        f"{moved['layer'].mean():.1f} for layers; the difference lies in [{low:.1f}, {high:.1f}].",
    )


def _in_bins(
    claim: str,
    bins: Sequence[Bin],
    advantage: Callable[[np.ndarray, np.ndarray], float],
    words: str,
) -> Claim:
    """Judges the mean advantage of layers over the bins that hold both."""
    shared = [group for group in bins if group.shared]
    if not shared:
        evidence = "No bin of latency holds three models of each kind: measure more models."
        return Claim(text=claim, found="undecided", evidence=evidence)
    # Filters and layers of each bin in turns.
    values = [np.array(group.values[kind]) for group in shared for kind in ("filter", "layer")]

    def mean(*values: np.ndarray) -> float:
        return float(
            np.mean([advantage(*pair) for pair in zip(values[::2], values[1::2], strict=True)])
        )

    low, high = _interval(mean, *values)
    return Claim(
        text=claim,
        found=decide(low, high),
        evidence=f"Over {len(shared)} bins of latency that hold both, {words} "
        f"{mean(*values):+.2f} points on average, in [{low:.2f}, {high:.2f}].",
    )


def _interval(statistic: Callable[..., float], *samples: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval of a statistic of samples.

    A sample of a single value says nothing of its spread: the interval is the value.
    """
    if min(map(len, samples)) < 2:
        return statistic(*samples), statistic(*samples)
    found = bootstrap(
        samples, statistic, n_resamples=_DRAWS, vectorized=False, method="percentile", rng=0
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
