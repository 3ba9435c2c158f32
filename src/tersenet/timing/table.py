"""What a layer costs as a function of both its widths, measured on the runtime that will ship.

A table of latencies instead of counts of operations: Yang et al., "NetAdapt", 2018,
arXiv:1804.03230; over pairs of (in, out) widths: Sun et al., "MDP", 2025, arXiv:2504.02168.
"""

import functools
import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from tersenet.core.types import Deployment, Workbench
from tersenet.graph import Site
from tersenet.timing.turns import least_ms
from tersenet.timing.writer import COPIES, LayerKind, write_layers

__all__ = ["LatencyTable", "Widths", "kind_of", "measure_table"]


Widths = tuple[int, int]
"""Channels read, channels made."""


def kind_of(site: Site) -> LayerKind | None:
    """Returns what a site's time depends on besides its widths; None of kinds without a table."""
    name, output = site.layer.kind, site.layer.output
    if site.filter_dim is None:
        return None
    if name == "linear":
        return LayerKind((), output[:-1])
    if name in ("conv1d", "conv2d", "conv3d"):
        return LayerKind(site.kernel, output[1:])
    if name in ("depthwise conv1d", "depthwise conv2d", "depthwise conv3d"):
        return LayerKind(site.kernel, output[1:], depthwise=True)
    return None


@final
@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Milliseconds of one layer of each kind, by the widths measured."""

    times: Mapping[LayerKind, Mapping[Widths, float]]

    def ms(self, kind: LayerKind, reads: float, makes: float) -> float:
        """Returns the time of a layer, interpolated between the widths measured.

        Never falls as a width rises: what was measured to take longer than something wider
        counts as that, since it could be filled up with zeros; mostly such a reading is noise.

        Raises:
            KeyError: if the kind was not measured.
        """
        grid = self._grids[kind]
        sides = [sorted({pair[side] for pair in grid}) for side in (0, 1)]
        if kind.depthwise:
            return sum(share * grid[width, width] for width, share in _between(sides[0], reads))
        return sum(
            first * second * grid[low, high]
            for (low, first), (high, second) in itertools.product(
                _between(sides[0], reads), _between(sides[1], makes)
            )
        )

    @functools.cached_property
    def _grids(self) -> dict[LayerKind, dict[Widths, float]]:
        return {
            kind: {
                (reads, makes): min(
                    ms for (more, most), ms in times.items() if more >= reads and most >= makes
                )
                for reads, makes in times
            }
            for kind, times in self.times.items()
        }


def _between(known: list[int], width: float) -> list[tuple[int, float]]:
    """Returns the neighbours of a width among the known ones, and the share of each."""
    at = bisect_left(known, width)
    if at == len(known):
        return [(known[-1], width / known[-1])]  # wider than any: in proportion
    if known[at] == width or at == 0:
        return [(known[at], 1.0)]
    low, high = known[at - 1], known[at]
    share = (width - low) / (high - low)
    return [(low, 1 - share), (high, share)]


def measure_table(
    wanted: Mapping[LayerKind, Iterable[Widths]],
    deployment: Deployment,
    *,
    batch: int,
    bench: Workbench,
) -> LatencyTable:
    """Times each kind of layer at all its widths, in turns.

    What was measured is kept kind by kind, so that a killed run goes on where it was.

    Raises:
        MeasureError: if the runtime is not installed or does not take the layers.
    """
    times: dict[LayerKind, dict[Widths, float]] = {}
    for done, (kind, widths) in enumerate(wanted.items()):
        bench.tick("timing layers", done, len(wanted))
        pairs = sorted(set(widths))
        files = {
            f"{reads}→{makes}": functools.partial(
                write_layers, kind, reads, makes, precision=deployment.precision
            )
            for reads, makes in pairs
        }
        layer = f"{kind} by {' '.join(files)}"
        found = least_ms(layer, files, deployment, batch=batch, bench=bench)
        times[kind] = {pair: round(ms / COPIES, 7) for pair, ms in zip(pairs, found, strict=True)}
    return LatencyTable(times=times)
