"""Small files that are made to be timed, in turns, in this process."""

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from tersenet.core.types import Deployment, Workbench
from tersenet.measure.rounds import Rounds, interleave
from tersenet.measure.runtimes import open_session
from tersenet.timing.cache import Key, kept
from tersenet.timing.plan import CELL, TimingPlan

__all__ = ["Write", "in_turns", "least_ms"]

Write: TypeAlias = Callable[[Path], object]
"""Writes one file to time."""


def in_turns(
    files: Mapping[str, Write], deployment: Deployment, *, plan: TimingPlan
) -> list[Rounds]:
    """Writes files and times them in turns, at each of the deployment's batch sizes.

    Raises:
        MeasureError: if the runtime is not installed or does not take a file.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for index, (name, write) in enumerate(files.items()):
            path = Path(folder) / f"{index}.onnx"
            write(path)
            sessions[name] = open_session(
                path, runtime=deployment.runtime, threads=deployment.threads
            )
        for batch in deployment.batches:
            runs = {
                name: functools.partial(session.run, session.random_feeds(batch=batch))
                for name, session in sessions.items()
            }
            found.append(
                interleave(
                    runs, iterations=plan.iterations, seconds=plan.seconds, warmup=plan.warmup
                )
            )
    return found


def least_ms(
    layer: str, files: Mapping[str, Write], deployment: Deployment, *, batch: int, bench: Workbench
) -> list[float]:
    """Returns the least milliseconds of each file, since other work only adds time; kept.

    `layer` says what they are, in full.

    Raises:
        MeasureError: as `in_turns`.
    """
    deployment = replace(deployment, batches=(batch,))

    def measure() -> list[float]:
        (rounds,) = in_turns(files, deployment, plan=CELL)
        return [min(rounds.samples_ms(name)) for name in files]

    return kept(Key.here(layer, deployment), measure, bench)
