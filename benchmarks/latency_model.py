"""How well latency is bilinear in the widths of adjacent layers, measured on ONNX Runtime.

    python benchmarks/latency_model.py

Networks of random widths are written as ONNX and timed in turns with the whole; the function of
ECC (arXiv:1812.01803) is fitted to three quarters of them and judged on the rest, each quarter in
turn. The floor is the mean: R² = 0. Then a network is found by that function for 0.7 of the time,
and its file is timed.
"""

import copy
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from convention import Figure, arguments, publish
from prune_latency_shapes import DEPLOYMENT, NETWORKS, Setting, network, task

from tersenet.core.types import Workbench
from tersenet.export import to_onnx
from tersenet.graph import trace
from tersenet.measure import compare
from tersenet.prune import L2, LatencyAware
from tersenet.prune.channels.groups import considered
from tersenet.prune.channels.rounding import allowed_counts
from tersenet.timing.bilinear import latency_model
from tersenet.timing.staircase import measure_stairs

SHARE = 0.7
DATA = Setting(train=512, test=500, epochs=1.0, seeds=1, budgets=(SHARE,))


def main() -> int:
    """Measures and prints; returns the exit code."""
    options = arguments(__doc__).parse_args()
    figures = []
    for name in list(NETWORKS)[: 1 if options.quick else None]:
        figures += measured(name, quick=options.quick)
    publish(
        "latency as a bilinear function of adjacent widths, batch 1, one thread",
        figures,
        json_file=options.json,
    )
    return 0


def measured(name: str, *, quick: bool) -> list[Figure]:
    """Returns R² on widths that were not fitted, and the time of what was found by the function."""
    model = network(name, quick=quick)
    subject = replace(task(DATA).subject(model, deployment=DEPLOYMENT), original=model)
    graph = trace(model, subject.example)
    criterion = L2()
    # At counts between those that the runtime likes, time is a staircase, and no product.
    groups, _ = considered(graph, criterion, owner="this benchmark", only=(), skip=())
    stairs = measure_stairs(groups, graph.sites, DEPLOYMENT, Workbench())
    counts = allowed_counts("auto", groups, stairs, least=1)
    found = latency_model(subject, graph, counts, samples=28 if quick else None)
    method = LatencyAware(latency=SHARE, cost="bilinear", worth="score", criterion=criterion)
    plan = method.plan(subject, Workbench())
    smaller, _ = method.apply(copy.deepcopy(model), plan, subject, Workbench())
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "smaller.onnx", Path(folder) / "whole.onnx"]
        to_onnx(smaller, subject.example, files[0])
        to_onnx(model, subject.example, files[1])
        (ratio,) = compare(*files, deployment=DEPLOYMENT, iterations=200, seconds=1.0)
    return [
        Figure(
            name=f"{name}: R² on widths that the fit did not see",
            value=found.r_squared,
            unit="",
            against="the mean",
            target=0.9,
        ),
        Figure(
            name=f"{name}: distance of the time from {SHARE:g} asked",
            value=100 * abs(1 / ratio.ratio / SHARE - 1),
            unit="%",
            against="the budget",
            target=5.0,
            at_most=True,
            detail=f"takes {1 / ratio.ratio:.3f} of the time",
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
