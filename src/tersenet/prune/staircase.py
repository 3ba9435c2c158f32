"""Which channel counts a runtime likes, measured.

Latency is a staircase: a runtime that computes in blocks of 16 channels takes as long for 10 or
12 channels as for 16. A count is liked when it is surely cheaper than every larger one.
"""

import functools
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from tersenet.core.types import Deployment, Workbench
from tersenet.graph import ChannelGroup, Site
from tersenet.measure.rounds import Rounds, interleave
from tersenet.measure.runtimes import Session, open_session
from tersenet.measure.statistics import ratio
from tersenet.measure.times import keep_times, read_times
from tersenet.prune.probe import DEPTH, Probe, write_probe

__all__ = ["Staircase", "Step", "candidates", "computing", "staircases"]

_MOST_CANDIDATES: Final = 8
_SECONDS: Final = 1.0  # to spend on one batch size of one staircase; ResNet-20 has three
_SAMPLES: Final = 24
_MOST_MACS: Final = 7 * 10**8  # in one timed run: some 20 ms on one core
_FILE: Final = "staircase.json"
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


def staircases(
    groups: Sequence[ChannelGroup],
    sites: Sequence[Site],
    deployment: Deployment,
    bench: Workbench,
) -> dict[str, Staircase]:
    """Returns the staircase of each group's costliest layer, measured once for each kind.

    What was measured is kept in the workbench's folder, so that a resumed run decides alike.

    Raises:
        MeasureError: if the runtime is not installed or does not take the probes.
    """
    path = None if bench.folder is None else bench.folder / _FILE
    deployment = computing(groups, sites, deployment, bench)
    known = read_times(path)
    probes = {group.name: _probe(group, sites, deployment) for group in groups}
    fresh = [one for one in dict.fromkeys(probes.values()) if one.key not in known]
    for done, probe in enumerate(fresh):
        bench.tick("timing channel counts", done, len(fresh))
        known[probe.key] = _measure(probe)
        if path is not None:
            keep_times(path, known)
    return {name: _staircase(probe, known[probe.key]) for name, probe in probes.items()}


def computing(
    groups: Sequence[ChannelGroup],
    sites: Sequence[Site],
    deployment: Deployment,
    bench: Workbench,
) -> Deployment:
    """Returns the deployment with a precision that is decided.

    Where a later step takes whichever of float and 8 bits is faster, the costliest kind of layer
    is timed in both: int8 where it is surely faster at every batch size. Kept as `staircases`.

    Raises:
        MeasureError: as `staircases`.
    """
    if deployment.precision != "either" or not groups:
        return deployment
    path = None if bench.folder is None else bench.folder / _FILE
    known = read_times(path)
    probe = max((_probe(one, sites, deployment) for one in groups), key=lambda one: one.macs)
    if probe.key not in known:
        bench.tick("timing 8 bits beside float", 0, 1)
        known[probe.key] = {"precision": _faster(probe)}
        if path is not None:
            keep_times(path, known)
    return replace(deployment, precision=known[probe.key]["precision"])


def candidates(size: int) -> tuple[int, ...]:
    """Returns the counts to time: multiples of 4, 8, 16, … so that at most 8 fit, and `size`."""
    step = 1 if size <= _MOST_CANDIDATES else 4
    while size > step * _MOST_CANDIDATES:
        step *= 2
    return (*range(step, size, step), size)


def _probe(group: ChannelGroup, sites: Iterable[Site], deployment: Deployment) -> Probe:
    filters = {member.tensor for member in group.filters}
    site = max((one for one in sites if one.tensor in filters), key=lambda one: one.layer.macs)
    positions = site.layer.output[1:] if site.kernel else ()
    probe = functools.partial(
        Probe,
        kernel=site.kernel,
        positions=positions,
        size=group.size,
        runtime=deployment.runtime,
        threads=deployment.threads,
        precision=deployment.precision,
    )
    asked = {min(deployment.batches, default=1), max(deployment.batches, default=1)}
    macs = max(1, probe(batches=()).macs)
    return probe(batches=tuple(sorted({max(1, min(one, _MOST_MACS // macs)) for one in asked})))


def _staircase(probe: Probe, measured: Mapping[str, Any]) -> Staircase:
    steps = [
        Step(count=int(count), cost=cost, interval=(low, high), bound=bound)
        for count, (cost, low, high, bound) in measured["costs"].items()
    ]
    return Staircase(
        kind=probe.kind,
        runtime=probe.runtime,
        threads=probe.threads,
        precision=probe.precision,
        batches=probe.batches,
        ms=measured["ms"],
        macs=probe.macs // DEPTH,
        steps=tuple(sorted(steps, key=lambda step: step.count)),
    )


def _measure(probe: Probe) -> dict[str, Any]:
    """Returns the cost of each candidate relative to the widest, and the widest's time.

    The widest is opened twice: how far the two sessions of one file lie apart is noise that
    rounds do not show, such as where its memory happens to lie.
    """
    counts = candidates(probe.size)
    files = {str(count): (probe, count) for count in counts}
    files[_AGAIN] = (probe, probe.size)
    found, ms = np.zeros((len(counts), 4)), 0.0
    for batch, rounds in zip(probe.batches, _timed(files, probe), strict=True):
        least = _least(rounds)
        own = [least[str(count)] for count in counts]
        apart = abs(ratio(least[_AGAIN], own[-1])[0] - 1)
        for row, times in enumerate(own):
            larger = [ratio(times, more)[2] * (1 + apart) for more in own[row + 1 :]]
            found[row] += (*ratio(times, own[-1]), max(larger, default=0.0))
        ms += min(min(one) for one in own[-1]) / (batch * DEPTH)
    found /= len(probe.batches)
    costs = {str(count): found[row].round(4).tolist() for row, count in enumerate(counts)}
    return {"costs": costs, "ms": ms / len(probe.batches)}


def _least(rounds: Rounds) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The least time of each slice: what else runs on the machine only ever adds time."""
    return {name: tuple((min(one),) for one in parts) for name, parts in rounds.slices_ms.items()}


def _faster(probe: Probe) -> str:
    """Returns int8 where the widest chain is surely faster so at every batch size, else fp32."""
    files = {
        precision: (replace(probe, precision=precision), probe.size)
        for precision in ("fp32", "int8")
    }
    sure = [
        ratio(least["fp32"], least["int8"])[1] > 1 for least in map(_least, _timed(files, probe))
    ]
    return "int8" if all(sure) else "fp32"


def _timed(files: Mapping[str, tuple[Probe, int]], probe: Probe) -> list[Rounds]:
    """Times chains (a kind of layer, its count) in turns, at each batch size of `probe`."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            name: _session(kind, count, Path(folder) / f"{index}.onnx")
            for index, (name, (kind, count)) in enumerate(files.items())
        }
        for batch in probe.batches:
            runs = {
                name: functools.partial(session.run, session.random_feeds(batch=batch))
                for name, session in sessions.items()
            }
            found.append(
                interleave(runs, iterations=_SAMPLES, seconds=_SECONDS / len(runs), warmup=3)
            )
    return found


def _session(probe: Probe, count: int, path: Path) -> Session:
    write_probe(probe, count, path)
    return open_session(path, runtime=probe.runtime, threads=probe.threads)
