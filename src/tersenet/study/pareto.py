"""Accuracy against latency of all kinds of networks, and which of them none beats in both."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tersenet.core.findings import LineChart, Series, Table

__all__ = ["front", "pareto_chart", "pareto_table"]

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


def pareto_chart(networks: Networks) -> LineChart:
    """Returns all networks by kind, and the front through them."""
    best = _best(networks)
    return LineChart(
        title=_TITLE,
        x_label="latency reduction at the first batch size, %",
        y_label="accuracy, %",
        joined=False,
        series=(
            *(
                Series(
                    name=kind,
                    x=tuple(one["reduction"][0][0] for one in found),
                    y=tuple(one["accuracy"] for one in found),
                )
                for kind, found in networks.items()
                if found
            ),
            Series(
                name="none beats",
                x=tuple(one["reduction"][0][0] for _, _, one in best),
                y=tuple(one["accuracy"] for _, _, one in best),
            ),
        ),
        note="Pruned networks had a short recovery, those designed by hand all their training.",
    )


def pareto_table(networks: Networks) -> Table:
    """Returns the networks that none beats in both, fastest first."""
    return Table(
        name="pareto",
        title="Networks that no other beats in both accuracy and latency",
        columns=("kind", "name", "latency reduction, %", "accuracy, %", "MACs removed, %"),
        rows=tuple(
            (
                kind,
                one.get("name", str(number)),
                round(one["reduction"][0][0], 2),
                round(one["accuracy"], 2),
                round(one["macs_removed"], 2),
            )
            for kind, number, one in _best(networks)
        ),
    )


def _best(networks: Networks) -> list[tuple[str, int, Mapping[str, Any]]]:
    every = [
        (kind, number, one) for kind, found in networks.items() for number, one in enumerate(found)
    ]
    places = front([(one["reduction"][0][0], one["accuracy"]) for _, _, one in every])
    return [every[place] for place in places]
