"""How the models of the study layer-vs-filter are drawn and listed."""

from collections.abc import Mapping, Sequence
from typing import Any

from tersenet.core.findings import BoxChart, LineChart, Samples, Series, Table
from tersenet.study.layer_vs_filter.bins import Bin
from tersenet.study.layer_vs_filter.random_models import KINDS, Kind

__all__ = ["chart_accuracies", "chart_reductions", "chart_work", "table_bins", "table_models"]

Points = Mapping[Kind, Sequence[Mapping[str, Any]]]
"""What was measured of each model, by how it was pruned."""


def chart_reductions(points: Points, batches: Sequence[int]) -> BoxChart:
    """Returns latency reductions, by batch size and kind."""
    return BoxChart(
        title="Latency reduction of networks pruned by chance",
        y_label="latency reduction, %",
        boxes=tuple(
            Samples(
                name=f"{kind}, batch {batch}",
                group=kind,
                values=tuple(point["reduction"][place][0] for point in points[kind]),
            )
            for place, batch in enumerate(batches)
            for kind in KINDS
        ),
        note="100 · (1 − time / time of the network as it came); below zero is slower.",
    )


def chart_work(points: Points, batches: Sequence[int]) -> LineChart:
    """Returns latency against multiply-accumulates."""
    return LineChart(
        title=f"Multiply-accumulates against time, batch {batches[0]}",
        x_label="multiply-accumulates removed, %",
        y_label="latency reduction, %",
        joined=False,
        series=tuple(
            Series.of(
                kind, ((point["macs_removed"], *point["reduction"][0]) for point in points[kind])
            )
            for kind in KINDS
        ),
    )


def chart_accuracies(bins: Sequence[Bin]) -> LineChart:
    """Returns accuracy by latency."""
    return LineChart(
        title="Accuracy after a short recovery, by latency",
        x_label="latency reduction at the first batch size, %",
        y_label="accuracy, %",
        series=tuple(
            Series.of(kind, (group.point(kind) for group in bins if group.values[kind]))
            for kind in KINDS
        ),
        note="Mean of each bin, and one standard deviation either way.",
    )


def table_models(points: Points, batches: Sequence[int]) -> Table:
    """Returns one row for each model."""
    return Table(
        name="models",
        title="Every model",
        columns=(
            *("kind", "number", "MACs removed, %"),
            *(f"latency reduction at batch {batch}, %" for batch in batches),
            "accuracy, %",
        ),
        rows=tuple(
            (
                *(kind, number, round(point["macs_removed"], 2)),
                *(round(middle, 2) for middle, *_ in point["reduction"]),
                round(point["accuracy"], 2),
            )
            for kind in KINDS
            for number, point in enumerate(points[kind])
        ),
    )


def table_bins(bins: Sequence[Bin]) -> Table:
    """Returns one row for each bin of latency."""
    return Table(
        name="accuracy-by-latency",
        title="Accuracy by latency",
        columns=(
            *("latency reduction from, %", "to, %"),
            *(f"{kind}: {what}" for kind in KINDS for what in ("models", "mean", "deviation")),
        ),
        rows=tuple(
            (group.low, group.high, *(value for kind in KINDS for value in _cells(group, kind)))
            for group in bins
        ),
    )


def _cells(group: Bin, kind: Kind) -> tuple[int, float | None, float | None]:
    count = len(group.values[kind])
    return (
        count,
        round(group.mean(kind), 2) if count else None,
        round(group.deviation(kind), 2) if count > 1 else None,
    )
