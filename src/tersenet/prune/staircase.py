"""Which channel counts a runtime likes, measured.

Latency is a staircase: a runtime that computes in blocks of 16 channels takes as long for 10 or
12 channels as for 16. A count is liked when no larger count is nearly as cheap.
"""

import functools
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from tersenet.core.types import Deployment, Workbench
from tersenet.graph import ChannelGroup, Site
from tersenet.measure.rounds import interleave
from tersenet.measure.runtimes import Session, open_session
from tersenet.measure.times import keep_times, read_times
from tersenet.prune.probe import Probe, write_probe

__all__ = ["Staircase", "candidates", "staircases"]

_SLACK: Final = 1.05  # a count must save 5 % on every larger one
_MOST_CANDIDATES: Final = 8
_SECONDS: Final = 1.0  # to spend on one batch size of one staircase; ResNet-20 has three
_SAMPLES: Final = 24
_MOST_MACS: Final = 7 * 10**8  # in one timed run: some 20 ms on one core
_FILE: Final = "staircase.json"


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
    steps: tuple[tuple[int, float], ...]
    """(channels, time relative to the widest), by rising channels."""

    @property
    def liked(self) -> tuple[int, ...]:
        """The counts that save at least 5 % on every larger one, and the widest."""
        found: list[int] = []
        cheapest = float("inf")
        for count, cost in reversed(self.steps):
            if cost * _SLACK <= cheapest:
                found.append(count)
            cheapest = min(cheapest, cost)
        return tuple(reversed(found))


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
    known = read_times(path)
    probes = {group.name: _probe(group, sites, deployment) for group in groups}
    fresh = [one for one in dict.fromkeys(probes.values()) if one.key not in known]
    for done, probe in enumerate(fresh):
        bench.tick("timing channel counts", done, len(fresh))
        known[probe.key] = _measure(probe)
        if path is not None:
            keep_times(path, known)
    return {name: _staircase(probe, known[probe.key]) for name, probe in probes.items()}


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


def _staircase(probe: Probe, costs: Mapping[str, float]) -> Staircase:
    return Staircase(
        kind=probe.kind,
        runtime=probe.runtime,
        threads=probe.threads,
        precision=probe.precision,
        batches=probe.batches,
        steps=tuple(sorted((int(count), cost) for count, cost in costs.items())),
    )


def _measure(probe: Probe) -> dict[str, float]:
    """Returns the relative cost of each candidate, averaged over batches.

    A candidate's cost is its least time over interleaved rounds: other work on the machine
    only ever adds time.
    """
    counts = [str(count) for count in candidates(probe.size)]
    total = dict.fromkeys(counts, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        sessions = {count: _session(probe, int(count), Path(folder)) for count in counts}
        for batch in probe.batches:
            runs = {
                count: functools.partial(session.run, session.random_feeds(batch=batch))
                for count, session in sessions.items()
            }
            rounds = interleave(runs, iterations=_SAMPLES, seconds=_SECONDS / len(runs), warmup=3)
            least = {count: min(rounds.samples_ms(count)) for count in counts}
            for count in counts:
                total[count] += least[count] / least[str(probe.size)]
    return {count: round(cost / len(probe.batches), 4) for count, cost in total.items()}


def _session(probe: Probe, count: int, folder: Path) -> Session:
    path = folder / f"{count}.onnx"
    write_probe(probe, count, path)
    return open_session(path, runtime=probe.runtime, threads=probe.threads)
