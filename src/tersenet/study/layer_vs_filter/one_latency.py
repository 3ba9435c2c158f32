"""Layers and filters judged by one criterion, at one latency.

Elkerdawy et al., arXiv:2007.05667: for the same criterion, a network without whole layers is as
accurate as one with fewer filters, and faster. Here the filters are given the same time, so that
only the accuracy is left to compare.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import nn

from tersenet.core.findings import Table
from tersenet.core.types import Subject
from tersenet.errors import StructureError
from tersenet.prune import L1, BNScale, Channels, Criterion, LayerPrune, Taylor
from tersenet.study.layer_vs_filter.bench import LayerBench
from tersenet.study.subject import compress_copy

__all__ = ["CRITERIA", "WITHIN", "keep_matched", "measure_pair", "table_pairs"]

CRITERIA: Final[Mapping[str, type[Criterion]]] = {
    "l1": L1,
    "bn-scale": BNScale,
    "taylor": Taylor,
}
WITHIN: Final = 3.0
"""Points of latency reduction that two networks of one latency may differ by."""
_FILES: Final = 6
"""Filter-pruned files to time in search of one as fast as the layer-pruned."""
_MULTIPLES: Final = (8, None)
"""What counts are multiples of: counts between are often no faster, which would not be the filters'
fault; any, where these steps are too coarse for the latency asked."""


def measure_pair(
    criterion: str, remove: int, subject: Subject, bench: LayerBench
) -> dict[str, Any]:
    """Returns what is measured of a network with fewer layers and one with fewer filters.

    Args:
        criterion: by which both are pruned.
        remove: layers that go.
        subject: the network, with what criteria need.
        bench: measures; the first batch size is that at which latencies are made equal.

    Returns:
        JSON values: {"criterion", "layer": measured, "filter": measured}, or {"criterion",
        "reason"} where the criterion has nothing to judge in this network.
    """
    judge = CRITERIA[criterion]()
    try:
        shallow = compress_copy(LayerPrune(criterion=judge, remove=remove), subject)
        narrow = _as_fast(bench.time(shallow)[0][0], judge, subject, bench)
    except StructureError as error:
        return {"criterion": criterion, "reason": str(error)}
    return {
        "criterion": criterion,
        "layer": bench.measure(shallow),
        "filter": bench.measure(narrow),
    }


def keep_matched(pairs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns, of pairs that were judged, those within three points of latency reduction."""
    return [pair for pair in pairs if _gap(pair) <= WITHIN]


def table_pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """Returns one row for each pair."""
    kinds = ("layer", "filter")
    return Table(
        name="one-criterion-one-latency",
        title="Layers and filters by one criterion, at one latency",
        columns=(
            "criterion",
            *(f"{kind}s: latency reduction, %" for kind in kinds),
            *(f"{kind}s: accuracy, %" for kind in kinds),
            f"within {WITHIN:g} points of latency",
        ),
        rows=tuple(
            (
                pair["criterion"],
                *(round(pair[kind]["reduction"][0][0], 2) for kind in kinds),
                *(round(pair[kind]["accuracy"], 2) for kind in kinds),
                "yes" if _gap(pair) <= WITHIN else "no",
            )
            for pair in pairs
        ),
    )


def _as_fast(wanted: float, judge: Criterion, subject: Subject, bench: LayerBench) -> nn.Module:
    """Returns the network with fewer filters whose latency reduction is nearest, by bisection."""
    nearest, found = float("inf"), None
    for multiple in _MULTIPLES:
        low, high = 0.0, 1.0
        for _ in range(_FILES):
            keep = (low + high) / 2
            method = Channels(criterion=judge, keep=keep, multiple_of=multiple)
            model = compress_copy(method, subject)
            reduction = bench.time(model)[0][0]
            if abs(reduction - wanted) < nearest:
                nearest, found = abs(reduction - wanted), model
            if nearest <= WITHIN / 2:  # half, for it is timed anew
                return model
            low, high = (keep, high) if reduction > wanted else (low, keep)
    assert found is not None
    return found


def _gap(pair: Mapping[str, Any]) -> float:
    return abs(pair["layer"]["reduction"][0][0] - pair["filter"]["reduction"][0][0])
