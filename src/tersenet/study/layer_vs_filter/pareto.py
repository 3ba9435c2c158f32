"""Accuracy against latency of all kinds of networks, and which of them none beats in both."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tersenet.core.findings import LineChart, Series, Table

__all__ = ["chart_pareto", "front", "table_pareto"]

Networks = Mapping[str, Sequence[Mapping[str, Any]]]
"""What was measured of each network, by kind."""

_TITLE: Final = "Accuracy against latency"


def front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Returns the places of the points that none beats, best first coordinate first.

    A point is beaten by one that is as good in both coordinates and better in one; more is better.
    """
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i))
    kept: list[int] = []
    for place in order:
        if not kept or points[place][1] > points[kept[-1]][1] or points[place] == points[kept[-1]]:
            kept.append(place)
    return tuple(kept)


def chart_pareto(networks: Networks) -> LineChart:
    """Returns all networks by kind, and the front through them."""
    best = _best(networks)
    return LineChart(
        title=_TITLE,
        x_label="latency reduction at the first batch size, %",
        y_label="accuracy, %",
        joined=False,
        series=(
            *(Series.of(kind, map(_place, points)) for kind, points in networks.items() if points),
            Series.of("none beats", (_place(point) for _, _, point in best)),
        ),
        note="Pruned networks had a short recovery, those designed by hand all their training.",
    )


def table_pareto(networks: Networks) -> Table:
    """Returns the networks that none beats in both, fastest first."""
    return Table(
        name="pareto",
        title="Networks that no other beats in both accuracy and latency",
        columns=("kind", "name", "latency reduction, %", "accuracy, %", "MACs removed, %"),
        rows=tuple(
            (
                kind,
                point.get("name", str(number)),
                round(point["reduction"][0][0], 2),
                round(point["accuracy"], 2),
                round(point["macs_removed"], 2),
            )
            for kind, number, point in _best(networks)
        ),
    )


def _best(networks: Networks) -> list[tuple[str, int, Mapping[str, Any]]]:
    every = [
        (kind, number, point)
        for kind, points in networks.items()
        for number, point in enumerate(points)
    ]
    return [every[place] for place in front([_place(point) for _, _, point in every])]


def _place(point: Mapping[str, Any]) -> tuple[float, float]:
    """Returns latency reduction at the first batch size, and accuracy."""
    return point["reduction"][0][0], point["accuracy"]
