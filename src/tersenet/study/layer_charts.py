"""How the models of the study layer-vs-filter are drawn and listed."""

from collections.abc import Mapping, Sequence
from typing import Any

from tersenet.core.findings import BoxChart, LineChart, Samples, Series, Table
from tersenet.study.latency_bins import Bin
from tersenet.study.random_models import KINDS, Kind

__all__ = ["accuracies", "bin_table", "boxes", "model_table", "scatter"]


def boxes(points: Mapping[Kind, Sequence[Mapping[str, Any]]], batches: Sequence[int]) -> BoxChart:
    """Returns latency reductions, by batch size and kind."""
    return BoxChart(
        title="Latency reduction of networks pruned by chance",
        y_label="latency reduction, %",
        boxes=tuple(
            Samples(
                name=f"{kind}, batch {batch}",
                group=kind,
                values=tuple(one["reduction"][place][0] for one in points[kind]),
            )
            for place, batch in enumerate(batches)
            for kind in KINDS
        ),
        note="100 · (1 − time / time of the network as it came); below zero is slower.",
    )


def scatter(
    points: Mapping[Kind, Sequence[Mapping[str, Any]]], batches: Sequence[int]
) -> LineChart:
    """Returns latency against multiply-accumulates."""
    return LineChart(
        title=f"Multiply-accumulates against time, batch {batches[0]}",
        x_label="multiply-accumulates removed, %",
        y_label="latency reduction, %",
        joined=False,
        series=tuple(
            Series(
                name=kind,
                x=tuple(one["macs_removed"] for one in points[kind]),
                y=tuple(one["reduction"][0][0] for one in points[kind]),
                low=tuple(one["reduction"][0][1] for one in points[kind]),
                high=tuple(one["reduction"][0][2] for one in points[kind]),
            )
            for kind in KINDS
        ),
    )


def accuracies(bins: Sequence[Bin]) -> LineChart:
    """Returns accuracy by latency."""
    return LineChart(
        title="Accuracy after a short recovery, by latency",
        x_label="latency reduction at the first batch size, %",
        y_label="accuracy, %",
        series=tuple(
            Series(
                name=kind,
                x=tuple(one.middle for one in bins if one.values[kind]),
                y=tuple(one.mean(kind) for one in bins if one.values[kind]),
                low=tuple(one.mean(kind) - one.deviation(kind) for one in bins if one.values[kind]),
                high=tuple(
                    one.mean(kind) + one.deviation(kind) for one in bins if one.values[kind]
                ),
            )
            for kind in KINDS
        ),
        note="Mean of each bin, and one standard deviation either way.",
    )


def model_table(
    points: Mapping[Kind, Sequence[Mapping[str, Any]]], batches: Sequence[int]
) -> Table:
    """Returns one row for each model."""
    return Table(
        name="models",
        title="Every model",
        columns=(
            "kind",
            "number",
            "MACs removed, %",
            *(f"latency reduction at batch {batch}, %" for batch in batches),
            "accuracy, %",
        ),
        rows=tuple(
            (
                kind,
                number,
                round(one["macs_removed"], 2),
                *(round(part[0], 2) for part in one["reduction"]),
                round(one["accuracy"], 2),
            )
            for kind in KINDS
            for number, one in enumerate(points[kind])
        ),
    )


def bin_table(bins: Sequence[Bin]) -> Table:
    """Returns one row for each bin of latency."""
    return Table(
        name="accuracy-by-latency",
        title="Accuracy by latency",
        columns=(
            "latency reduction from, %",
            "to, %",
            *(f"{kind}: {what}" for kind in KINDS for what in ("models", "mean", "deviation")),
        ),
        rows=tuple(
            (
                one.low,
                one.high,
                *(
                    value
                    for kind in KINDS
                    for value in (
                        len(one.values[kind]),
                        round(one.mean(kind), 2) if one.values[kind] else None,
                        round(one.deviation(kind), 2) if len(one.values[kind]) > 1 else None,
                    )
                ),
            )
            for one in bins
        ),
    )
