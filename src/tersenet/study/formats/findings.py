"""What the comparison of the paper's formats found, as verdicts, charts and tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tersenet.core.findings import BoxChart, Findings, LineChart, Samples, Series, Table
from tersenet.measure import describe_device
from tersenet.study.formats.claims import FORMATS, MEASURES, claims

__all__ = ["make_findings"]

Rows = Sequence[Mapping[str, Any]]


def make_findings(rows: Rows, grid: Rows) -> Findings:
    """Gathers all.

    Args:
        rows: Layers of networks: setting, network, positions, and the costs by format.
        grid: Points over entropy and sparsity.
    """
    totals = tuple(_totals(rows))
    return Findings(
        name="formats",
        question="What do CER and CSER cost beside dense storage and CSR?",
        claims=claims(totals, grid),
        charts=(*_layer_charts(rows), *_grid_charts(grid)),
        tables=(
            Table(
                name="networks",
                title="Whole networks: one image's products; storage with values of 8 bits",
                columns=("setting", "network", "format", "storage, MB", "operations, 10⁹",
                         "time, ms", "energy, mJ (model)"),
                rows=totals,
            ),
            Table(
                name="grid",
                title="Bits an element over entropy and sparsity",
                columns=("bits", "zeros, %", "entropy, bits", *FORMATS),
                rows=tuple(
                    (point["bits"], 100 * point["zeros"], point["entropy"],
                     *(point[name]["storage"] / point["elements"] for name in FORMATS))
                    for point in grid
                ),
            ),
        ),
        conditions={
            "device": describe_device().cpu,
            "threads": "1",
            "weights": "drawn, Laplace, smallest cut, even grid; at least 16 rows a layer, scaled",
            "time": "one vector at a time, straightforward kernels; 'chosen' is the fast format"
            " that `best_format` predicts",
            "energy": "a model of a 45 nm chip: no device was measured",
        },
        notes=(
            "Dense storage here has 8 bits a value: as float32 it is four times as large.",
            "A convolution multiplies once for each place of its output.",
        ),
    )  # fmt: skip


def _totals(
    rows: Rows,
) -> Iterator[tuple[str, str, str, float | None, float | None, float, float | None]]:
    for setting, network in dict.fromkeys((row["setting"], row["network"]) for row in rows):
        own = [row for row in rows if (row["setting"], row["network"]) == (setting, network)]
        for name in (*FORMATS, "chosen"):
            sums = {
                measure: sum(
                    row[name][measure] * (1 if measure == "storage" else row["positions"])
                    for row in own
                )
                for measure in own[0][name]
            }
            counted = "storage" in sums
            yield (
                *(setting, network, name),
                sums["storage"] / 8e6 if counted else None,
                sums["operations"] / 1e9 if counted else None,
                sums["time"],
                sums["energy"] / 1e9 if counted else None,
            )


def _layer_charts(rows: Rows) -> Iterator[BoxChart]:
    for setting in dict.fromkeys(row["setting"] for row in rows):
        for measure, label in MEASURES.items():
            names = FORMATS[1:] + (("chosen",) if measure == "time" else ())
            boxes = [
                Samples(
                    name=network,
                    group=name,
                    values=tuple(
                        row["dense"][measure] / row[name][measure]
                        for row in rows
                        if (row["setting"], row["network"]) == (setting, network)
                    ),
                )
                for network in dict.fromkeys(r["network"] for r in rows if r["setting"] == setting)
                for name in names
            ]
            yield BoxChart(
                title=f"{setting}: {label}",
                y_label="times less than dense",
                boxes=tuple(boxes),
                y_log=True,
                note="A box is the layers of a network; below 1 is more than dense.",
            )


def _grid_charts(grid: Rows) -> Iterator[LineChart]:
    for zeros in dict.fromkeys(point["zeros"] for point in grid):
        own = [point for point in grid if point["zeros"] == zeros]
        for measure, label in MEASURES.items():
            series = [
                Series.of(
                    name,
                    (
                        (point["entropy"], point[name][measure] / point["dense"][measure])
                        for point in own
                    ),
                )
                for name in FORMATS[1:]
            ]
            yield LineChart(
                title=f"{100 * zeros:g} % cut: {label} over entropy",
                x_label="entropy, bits an element",
                y_label="share of dense",
                series=tuple(series),
                y_log=True,
            )
