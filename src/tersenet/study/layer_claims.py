"""What Elkerdawy et al. claim of filters and layers, arXiv:2007.05667, and what was found."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from tersenet.core.findings import Verdict
from tersenet.study.latency_bins import Bin
from tersenet.study.random_models import Kind

__all__ = ["at_one_latency", "verdicts"]

Finding: TypeAlias = Literal["holds", "does not hold", "undecided"]

_DRAWS: Final = 2000
_FEWEST: Final = 10
"""Models of each kind, below which nothing is decided."""
_FURTHER: Final = 1.3
"""How many times as far layers must reach for their range to be called wider."""
_FEWEST_PAIRS: Final = 5
"""Pairs of one latency, below which nothing is decided."""
_BEHIND: Final = 0.5
"""Points of accuracy that still count as equal."""


def verdicts(
    points: Mapping[Kind, Sequence[Mapping[str, Any]]],
    bins: Sequence[Bin],
    limits: Mapping[Kind, float],
    *,
    batches: Sequence[int],
) -> tuple[Verdict, ...]:
    """Returns a verdict on each claim; undecided where an interval holds zero.

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
        _steadier(bins),
        _better(bins),
    )
    if min(map(len, points.values())) >= _FEWEST:
        return found
    few = f" Fewer than {_FEWEST} models of each kind decide nothing."
    return tuple(
        Verdict(claim=one.claim, found="undecided", evidence=one.evidence + few) for one in found
    )


def at_one_latency(pairs: Sequence[Mapping[str, Any]], tried: int) -> Verdict:
    """Returns the verdict on layers and filters that one criterion chose, equally fast.

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
        return Verdict(claim=claim, found="undecided", evidence=f"{met}.")
    ahead = np.array([one["layer"]["accuracy"] - one["filter"]["accuracy"] for one in pairs])
    low, high = _interval(lambda draw: float(draw(ahead).mean()))
    names = sorted({one["criterion"] for one in pairs})
    evidence = (
        f"{met}, by {', '.join(names)}; layers are ahead by {ahead.mean():+.2f} points on average, "
        f"in [{low:.2f}, {high:.2f}]."
    )
    if len(pairs) < _FEWEST_PAIRS:
        return Verdict(
            claim=claim,
            found="undecided",
            evidence=f"{evidence} Fewer than {_FEWEST_PAIRS} decide nothing.",
        )
    return Verdict(claim=claim, found=_sign(low + _BEHIND, high + _BEHIND), evidence=evidence)


def _reach(
    points: Mapping[Kind, Sequence[Mapping[str, Any]]],
    limits: Mapping[Kind, float],
    batches: Sequence[int],
) -> Verdict:
    best = {kind: max(one["reduction"][0][0] for one in found) for kind, found in points.items()}
    found: Finding = "undecided"
    if best["layer"] >= _FURTHER * best["filter"]:
        found = "holds"
    elif best["layer"] <= best["filter"]:
        found = "does not hold"
    return Verdict(
        claim="The latency that removing filters can save is bounded by the depth that stays: "
        f"removing layers saves at least {_FURTHER} times as much at most.",
        found=found,
        evidence=f"At batch {batches[0]} the most that was saved is {best['filter']:.1f} % by "
        f"filters and {best['layer']:.1f} % by layers, of {len(points['filter'])} and "
        f"{len(points['layer'])} models. One filter in each layer saves {limits['filter']:.1f} %, "
        f"none of the layers that can go {limits['layer']:.1f} %.",
    )


def _slower(points: Mapping[Kind, Sequence[Mapping[str, Any]]], batches: Sequence[int]) -> Verdict:
    counts = {
        kind: sum(any(max(part) < 0 for part in one["reduction"]) for one in found)
        for kind, found in points.items()
    }
    return Verdict(
        claim="A network with fewer filters can be slower than the whole.",
        found="holds" if counts["filter"] else "does not hold",
        evidence=f"{counts['filter']} of {len(points['filter'])} models with fewer filters, and "
        f"{counts['layer']} of {len(points['layer'])} with fewer layers, are slower at batch "
        f"{' or '.join(map(str, batches))} beyond the interval of the measurement.",
    )


def _depends(points: Mapping[Kind, Sequence[Mapping[str, Any]]], batches: Sequence[int]) -> Verdict:
    claim = (
        "What removing filters saves depends on the batch size more than what removing layers does."
    )
    if len(batches) < 2:
        return Verdict(claim=claim, found="undecided", evidence="One batch size was measured.")
    moved = {
        kind: np.array([abs(one["reduction"][-1][0] - one["reduction"][0][0]) for one in found])
        for kind, found in points.items()
    }
    low, high = _interval(
        lambda draw: float(draw(moved["filter"]).mean() - draw(moved["layer"]).mean())
    )
    return Verdict(
        claim=claim,
        found=_sign(low, high),
        evidence=f"From batch {batches[0]} to {batches[-1]} the reduction moves by "
        f"{moved['filter'].mean():.1f} points on average for filters and "
        f"{moved['layer'].mean():.1f} for layers; the difference lies in [{low:.1f}, {high:.1f}].",
    )


def _steadier(bins: Sequence[Bin]) -> Verdict:
    return _in_bins(
        "At one latency, networks with fewer layers vary less in accuracy.",
        bins,
        lambda filters, layers: float(filters.std() - layers.std()),
        "layers deviate less by",
    )


def _better(bins: Sequence[Bin]) -> Verdict:
    return _in_bins(
        "At one latency, networks with fewer layers are more accurate.",
        bins,
        lambda filters, layers: float(layers.mean() - filters.mean()),
        "layers are ahead by",
    )


def _in_bins(
    claim: str,
    bins: Sequence[Bin],
    advantage: Callable[[np.ndarray, np.ndarray], float],
    words: str,
) -> Verdict:
    """Judges the mean advantage of layers over the bins that hold both."""
    shared = [one for one in bins if one.shared]
    if not shared:
        return Verdict(claim=claim, found="undecided", evidence=_NO_BIN)
    values = [{kind: np.array(one.values[kind]) for kind in one.values} for one in shared]

    def mean(draw: Callable[[np.ndarray], np.ndarray]) -> float:
        return float(np.mean([advantage(draw(v["filter"]), draw(v["layer"])) for v in values]))

    low, high = _interval(mean)
    return Verdict(
        claim=claim,
        found=_sign(low, high),
        evidence=f"Over {len(shared)} bins of latency that hold both, {words} "
        f"{mean(lambda values: values):+.2f} points on average, in [{low:.2f}, {high:.2f}].",
    )


_NO_BIN: Final = "No bin of latency holds three models of each kind: measure more models."


def _interval(
    statistic: Callable[[Callable[[np.ndarray], np.ndarray]], float],
) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of a statistic of samples drawn with replacement."""
    generator = np.random.default_rng(0)

    def draw(values: np.ndarray) -> np.ndarray:
        return generator.choice(values, len(values))

    found = [statistic(draw) for _ in range(_DRAWS)]
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def _sign(low: float, high: float) -> Finding:
    if low > 0:
        return "holds"
    return "does not hold" if high < 0 else "undecided"
