"""Files side by side: bytes, memory and latency, each against the first."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from tersenet.core.types import Deployment, Device, Latency, Speedup, Unmeasured
from tersenet.measure.latency import ITERATIONS, SECONDS, compare_many
from tersenet.measure.memory import peak_memory

__all__ = ["BenchResult", "Benched", "bench"]


@final
@dataclass(frozen=True, kw_only=True)
class Benched:
    """One file, measured."""

    name: str
    path: Path
    file_bytes: int
    peak_memory_bytes: int | Unmeasured
    """Resident, of a fresh process that loads the file and runs the smallest batch."""
    speedups: tuple[Speedup, ...]
    """Against the first file, one per batch size; of the first itself, all 1."""

    @property
    def latency(self) -> tuple[Latency, ...]:
        """One per batch size."""
        return tuple(speedup.own for speedup in self.speedups)


@final
@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Files measured side by side on one machine."""

    deployment: Deployment
    device: Device
    load_average: float
    """Over the minute before."""
    files: tuple[Benched, ...]
    notes: tuple[str, ...]
    """What a reader of the figures should know."""


def bench(
    files: Mapping[str, Path],
    *,
    deployment: Deployment,
    iterations: int = ITERATIONS,
    seconds: float = SECONDS,
    seed: int = 0,
) -> BenchResult:
    """Measures files by name, the first being what the others are compared with.

    Arguments and errors as `compare`.
    """
    speedups = compare_many(
        files, deployment=deployment, iterations=iterations, seconds=seconds, seed=seed
    )
    batch = min(deployment.batches)
    sample = speedups[next(iter(files))][0].own
    return BenchResult(
        deployment=deployment,
        device=sample.device,
        load_average=sample.load_average,
        files=tuple(
            Benched(
                name=name,
                path=path,
                file_bytes=path.stat().st_size,
                peak_memory_bytes=peak_memory(path, deployment=deployment, batch=batch),
                speedups=speedups[name],
            )
            for name, path in files.items()
        ),
        notes=_notes(sample.load_average, sample.device),
    )


def _notes(load: float, device: Device) -> tuple[str, ...]:
    cores = os.cpu_count() or device.cores
    if load <= cores:
        return ()
    note = (
        f"the machine was loaded before the measurement (load average {load:.1f} on {cores} "
        "cores): trust the ratios and their intervals, not the milliseconds"
    )
    return (note,)
