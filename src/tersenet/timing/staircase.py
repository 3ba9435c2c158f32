"""Which channel counts a runtime likes, measured.

Latency is a staircase: a runtime that computes in blocks of 16 channels takes as long for 10 or
12 channels as for 16. A count is liked when it is surely cheaper than every larger one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, final

import numpy as np
from pydantic import TypeAdapter

from tersenet.core.types import Deployment, Precision, Workbench
from tersenet.graph import ChannelGroup, Site
from tersenet.measure.rounds import Rounds
from tersenet.measure.statistics import ratio
from tersenet.timing.cache import Key, kept
from tersenet.timing.plan import STAIRCASE
from tersenet.timing.turns import Write, in_turns
from tersenet.timing.writer import COPIES, LayerKind, write_stack

__all__ = ["Probe", "Staircase", "Stair", "counts_to_time", "decide_precision", "measure_stairs"]

_MOST_COUNTS: Final = 8
_MOST_MACS: Final = 7 * 10**8  # in one timed run: some 20 ms on one core
_AGAIN: Final = "the widest again"


@final
@dataclass(frozen=True, kw_only=True)
class Stair:
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

    of: Key
    """The layer and where it was timed; the relative cost is averaged over its batch sizes."""
    ms: float
    """Of one sample through one such layer at the widest count."""
    macs: int
    """The same in multiply-accumulates."""
    steps: tuple[Stair, ...]
    """By rising count; the last is the widest, whose cost is 1."""

    @property
    def liked(self) -> tuple[int, ...]:
        """The counts that are surely cheaper than every larger one, and the widest."""
        return tuple(step.count for step in self.steps if step.bound < 1)

    def cost(self, count: int) -> float:
        """Returns what a count that was timed costs, relative to the widest."""
        return next(step.cost for step in self.steps if step.count == count)


@final
@dataclass(frozen=True)
class Probe:
    """One kind of layer, at no more channels than `size`, on one runtime."""

    layer: LayerKind
    size: int
    deployment: Deployment

    @property
    def key(self) -> Key:
        """What it is kept under."""
        return Key.here(f"{self.layer}, up to {self.size}", self.deployment)

    @property
    def macs(self) -> int:
        """Of one sample through one layer at the widest count."""
        return math.prod((*self.layer.kernel, *self.layer.positions, self.size, self.size))


_STAIRCASE: Final = TypeAdapter(Staircase)


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
        measured = kept(probe.key, partial(_as_json, probe), bench)
        stairs[probe] = _STAIRCASE.validate_python(measured)
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
    probes = [_probe(group, sites, deployment) for group in groups]
    probe = max(probes, key=lambda probe: probe.macs)
    bench.tick("timing 8 bits beside float", 0, 1)
    return replace(deployment, precision=kept(probe.key, partial(_faster, probe), bench))


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
    layer = LayerKind(site.kernel, site.layer.output[1:] if site.kernel else ())
    probe = Probe(layer, group.size, deployment)
    most = max(1, _MOST_MACS // max(1, COPIES * probe.macs))
    batches = {min(batch, most) for batch in (min(deployment.batches), max(deployment.batches))}
    return replace(probe, deployment=replace(deployment, batches=tuple(sorted(batches))))


def _as_json(probe: Probe) -> Any:
    return _STAIRCASE.dump_python(_measure(probe), mode="json")


def _measure(probe: Probe) -> Staircase:
    """Returns the cost of each count relative to the widest, and the widest's time.

    The widest is opened twice: how far the two sessions of one file lie apart is noise that
    rounds do not show, such as where its memory happens to lie.
    """
    deployment, counts = probe.deployment, counts_to_time(probe.size)
    write = partial(write_stack, probe.layer, precision=deployment.precision)
    files = {str(count): partial(write, count) for count in counts}
    files[_AGAIN] = partial(write, probe.size)
    costs, ms = np.zeros((len(counts), 4)), 0.0
    for batch, rounds in zip(deployment.batches, _timed(files, deployment), strict=True):
        least = _least(rounds)
        own = [least[str(count)] for count in counts]
        apart = abs(ratio(least[_AGAIN], own[-1])[0] - 1)
        for row, times in enumerate(own):
            larger = [ratio(times, more)[2] * (1 + apart) for more in own[row + 1 :]]
            costs[row] += (*ratio(times, own[-1]), max(larger, default=0.0))
        ms += min(min(part) for part in own[-1]) / (batch * COPIES)
    rows = (costs / len(deployment.batches)).round(4).tolist()
    return Staircase(
        of=probe.key,
        ms=ms / len(deployment.batches),
        macs=probe.macs,
        steps=tuple(
            Stair(count=count, cost=cost, interval=(low, high), bound=bound)
            for count, (cost, low, high, bound) in zip(counts, rows, strict=True)
        ),
    )


def _least(rounds: Rounds) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The least time of each slice: what else runs on the machine only ever adds time."""
    return {name: tuple((min(part),) for part in parts) for name, parts in rounds.slices_ms.items()}


def _faster(probe: Probe) -> Precision:
    """Returns int8 where the widest chain is surely faster so at every batch size, else fp32."""
    write = partial(write_stack, probe.layer, probe.size)
    files = {"fp32": partial(write, precision="fp32"), "int8": partial(write, precision="int8")}
    timed = map(_least, _timed(files, probe.deployment))
    sure = [ratio(least["fp32"], least["int8"])[1] > 1 for least in timed]
    return "int8" if all(sure) else "fp32"


def _timed(files: Mapping[str, Write], deployment: Deployment) -> list[Rounds]:
    return in_turns(files, deployment, plan=STAIRCASE.among(len(files)))
