"""Which channel counts a runtime likes, measured.

Latency is a staircase: a runtime that computes in blocks of 16 channels takes as long for 10 or
12 channels as for 16. A count is liked when it is surely cheaper than every larger one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, final

import numpy as np

from tersenet.core.types import Deployment, Workbench
from tersenet.graph import ChannelGroup, Site
from tersenet.measure.rounds import Rounds
from tersenet.measure.statistics import ratio
from tersenet.timing.cache import Key, kept
from tersenet.timing.plan import STAIRCASE
from tersenet.timing.turns import in_turns
from tersenet.timing.writer import COPIES, Probe, write_probe

__all__ = ["Staircase", "Step", "counts_to_time", "decide_precision", "measure_stairs"]

_MOST_COUNTS: Final = 8
_MOST_MACS: Final = 7 * 10**8  # in one timed run: some 20 ms on one core
_AGAIN: Final = "the widest again"


@final
@dataclass(frozen=True, kw_only=True)
class Step:
    """What one channel count costs, as a share of the widest one's time."""

    count: int
    cost: float
    interval: tuple[float, float]
    """Of 95 %, over rounds."""
    bound: float
    """What it costs at most as a share of any larger count's time, with 97.5 % certainty for each
    and widened by how far two sessions of one file lay apart; 0 of the widest."""


@final
@dataclass(frozen=True, kw_only=True)
class Staircase:
    """What each channel count costs for one kind of layer."""

    kind: str
    """The layer: kernel, positions, widest count."""
    runtime: str
    threads: int
    precision: str
    batches: tuple[int, ...]
    """Over which the relative cost is averaged."""
    ms: float
    """Of one sample through one such layer at the widest count."""
    macs: int
    """The same in multiply-accumulates."""
    steps: tuple[Step, ...]
    """By rising count; the last is the widest, whose cost is 1."""

    @property
    def liked(self) -> tuple[int, ...]:
        """The counts that are surely cheaper than every larger one, and the widest."""
        return tuple(step.count for step in self.steps if step.bound < 1)

    def cost(self, count: int) -> float:
        """Returns what a count that was timed costs, relative to the widest."""
        return next(step.cost for step in self.steps if step.count == count)


def measure_stairs(
    groups: Sequence[ChannelGroup],
    sites: Sequence[Site],
    deployment: Deployment,
    bench: Workbench,
) -> dict[str, Staircase]:
    """Returns the staircase of each group's costliest layer, measured once for each kind; kept.

    Raises:
        MeasureError: if the runtime is not installed or does not take the probes.
    """
    deployment = decide_precision(groups, sites, deployment, bench)
    probes = {group.name: _probe(group, sites, deployment) for group in groups}
    kinds = dict.fromkeys(probes.values())
    stairs = {}
    for done, probe in enumerate(kinds):
        bench.tick("timing channel counts", done, len(kinds))
        key = Key.here(f"staircase of {probe.kind}", probe.deployment)
        stairs[probe] = _staircase(probe, kept(key, partial(_measure, probe), bench))
    return {name: stairs[probe] for name, probe in probes.items()}


def decide_precision(
    groups: Sequence[ChannelGroup],
    sites: Sequence[Site],
    deployment: Deployment,
    bench: Workbench,
) -> Deployment:
    """Returns the deployment with a precision that is decided.

    Where a later step takes whichever of float and 8 bits is faster, the costliest kind of layer
    is timed in both: int8 where it is surely faster at every batch size. Kept as `measure_stairs`.

    Raises:
        MeasureError: as `measure_stairs`.
    """
    if deployment.precision != "either" or not groups:
        return deployment
    probe = max((_probe(group, sites, deployment) for group in groups), key=lambda one: one.macs)
    bench.tick("timing 8 bits beside float", 0, 1)
    key = Key.here(f"8 bits beside float of {probe.kind}", probe.deployment)
    return replace(deployment, precision=kept(key, partial(_faster, probe), bench))


def counts_to_time(size: int) -> tuple[int, ...]:
    """Returns multiples of 4, 8, 16, … so that at most 8 fit, and `size`; all up to 8."""
    step = 1 if size <= _MOST_COUNTS else 4
    while size > step * _MOST_COUNTS:
        step *= 2
    return (*range(step, size, step), size)


def _probe(group: ChannelGroup, sites: Iterable[Site], deployment: Deployment) -> Probe:
    """Returns the probe of a group's costliest layer, at batches that take no longer than due."""
    filters = {member.tensor for member in group.filters}
    site = max((site for site in sites if site.tensor in filters), key=lambda site: site.layer.macs)
    positions = site.layer.output[1:] if site.kernel else ()
    probe = Probe(kernel=site.kernel, positions=positions, size=group.size, deployment=deployment)
    most = max(1, _MOST_MACS // max(1, probe.macs))
    batches = {min(batch, most) for batch in (min(deployment.batches), max(deployment.batches))}
    return replace(probe, deployment=replace(deployment, batches=tuple(sorted(batches))))


def _staircase(probe: Probe, measured: Mapping[str, Any]) -> Staircase:
    steps = [
        Step(count=int(count), cost=cost, interval=(low, high), bound=bound)
        for count, (cost, low, high, bound) in measured["costs"].items()
    ]
    return Staircase(
        kind=probe.kind,
        runtime=probe.deployment.runtime,
        threads=probe.deployment.threads,
        precision=probe.deployment.precision,
        batches=probe.deployment.batches,
        ms=measured["ms"],
        macs=probe.macs // COPIES,
        steps=tuple(sorted(steps, key=lambda step: step.count)),
    )


def _measure(probe: Probe) -> dict[str, Any]:
    """Returns the cost of each count relative to the widest, and the widest's time.

    The widest is opened twice: how far the two sessions of one file lie apart is noise that
    rounds do not show, such as where its memory happens to lie.
    """
    counts, batches = counts_to_time(probe.size), probe.deployment.batches
    files = {str(count): (probe, count) for count in counts} | {_AGAIN: (probe, probe.size)}
    costs, ms = np.zeros((len(counts), 4)), 0.0
    for batch, rounds in zip(batches, _timed(files), strict=True):
        least = _least(rounds)
        own = [least[str(count)] for count in counts]
        apart = abs(ratio(least[_AGAIN], own[-1])[0] - 1)
        for row, times in enumerate(own):
            larger = [ratio(times, more)[2] * (1 + apart) for more in own[row + 1 :]]
            costs[row] += (*ratio(times, own[-1]), max(larger, default=0.0))
        ms += min(min(part) for part in own[-1]) / (batch * COPIES)
    costs /= len(batches)
    rows = {str(count): costs[row].round(4).tolist() for row, count in enumerate(counts)}
    return {"costs": rows, "ms": ms / len(batches)}


def _least(rounds: Rounds) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The least time of each slice: what else runs on the machine only ever adds time."""
    return {name: tuple((min(part),) for part in parts) for name, parts in rounds.slices_ms.items()}


def _faster(probe: Probe) -> str:
    """Returns int8 where the widest chain is surely faster so at every batch size, else fp32."""
    files = {
        precision: (replace(probe, deployment=replace(probe.deployment, precision=precision)),
                    probe.size)
        for precision in ("fp32", "int8")
    }  # fmt: skip
    sure = [ratio(least["fp32"], least["int8"])[1] > 1 for least in map(_least, _timed(files))]
    return "int8" if all(sure) else "fp32"


def _timed(files: Mapping[str, tuple[Probe, int]]) -> list[Rounds]:
    """Times chains (a kind of layer, its count) in turns, at each batch size of the probes."""
    writers = {name: partial(write_probe, probe, count) for name, (probe, count) in files.items()}
    deployment = next(iter(files.values()))[0].deployment
    return in_turns(writers, deployment, plan=STAIRCASE.among(len(files)))
