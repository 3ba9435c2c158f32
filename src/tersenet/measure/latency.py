"""How long an inference takes, and how many times faster one file is than another.

Latency is a distribution: every sample is kept, and p50, p95 and throughput are read from them
(EEMBC MLMark states the 95th percentile). Ratios come from interleaved samples only.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tersenet.core.host.system import load_average
from tersenet.core.types import Deployment, Device, Latency, Speedup
from tersenet.errors import MeasureError
from tersenet.measure.device import describe_device
from tersenet.measure.process import TIMEOUT_SECONDS, ask
from tersenet.measure.rounds import Rounds, interleave
from tersenet.measure.statistics import ratio

__all__ = ["compare", "compare_callables", "compare_many", "time_callable"]

ITERATIONS: Final = 100
SECONDS: Final = 1.0
WARMUP: Final = 10


def compare(
    own: Path,
    baseline: Path,
    *,
    deployment: Deployment,
    iterations: int = ITERATIONS,
    seconds: float = SECONDS,
    seed: int = 0,
    timeout: float = TIMEOUT_SECONDS,
) -> tuple[Speedup, ...]:
    """Times one file against another, in one fresh process; one result per batch size.

    With the same file twice it is the control. The interval covers what varies between rounds,
    not where a process happens to place its memory, which moves a ratio by about one percent:
    a difference that the control shows too means nothing.

    Args:
        own: the ONNX file whose speed is asked for.
        baseline: the ONNX file it is compared with.
        deployment: runtime, threads and batch sizes.
        iterations: least number of samples of each file at each batch size.
        seconds: time for each file and batch size to go on for, beyond that number.
        seed: of the inputs and of the order within rounds.
        timeout: in seconds, for all.

    Raises:
        MeasureError: if a file or the runtime is missing, a file does not run, the threads
            outnumber the cores, or the measuring process is killed or takes too long.
    """
    files = {"baseline": baseline, "own": own}
    return compare_many(
        files,
        deployment=deployment,
        iterations=iterations,
        seconds=seconds,
        seed=seed,
        timeout=timeout,
    )["own"]


def compare_many(
    files: Mapping[str, Path],
    *,
    deployment: Deployment,
    iterations: int = ITERATIONS,
    seconds: float = SECONDS,
    seed: int = 0,
    timeout: float = TIMEOUT_SECONDS,
) -> dict[str, tuple[Speedup, ...]]:
    """Times files in turns, each against the first, which is compared with itself as 1.

    Returns one result per batch size for each file by name. Arguments and errors as `compare`.
    """
    if not files:
        raise MeasureError("there is no file to measure: give the path of an ONNX file.")
    if iterations < 1:
        raise MeasureError(f"{iterations} iterations measure nothing: ask for at least 1.")
    answer = ask(
        "latency",
        files,
        deployment=deployment,
        timeout=timeout,
        batches=deployment.batches,
        iterations=iterations,
        seconds=seconds,
        warmup=WARMUP,
        seed=seed,
    )
    found: dict[str, list[Speedup]] = {name: [] for name in files}
    device = describe_device()
    for part in answer["batches"]:
        rounds = Rounds.from_json(part)
        facts: dict[str, Any] = {
            "batch": part["batch"],
            "threads": deployment.threads,
            "runtime": deployment.runtime,
            "device": device,
            "load_average": answer["load_average"],
            "pinned": tuple(answer["pinned"]),
        }
        for name, speedup in _speedups(rounds, facts, seed).items():
            found[name].append(speedup)
    return {name: tuple(parts) for name, parts in found.items()}


def time_callable(
    call: Callable[[], object],
    *,
    iterations: int = ITERATIONS,
    seconds: float = SECONDS,
    warmup: int = WARMUP,
    batch: int = 1,
    threads: int = 1,
) -> Latency:
    """Times anything that can be called, in this process, as files are timed.

    Args:
        call: one inference of `batch` samples.
        iterations: least number of samples.
        seconds: time to go on for, beyond that number.
        warmup: calls before the first sample.
        batch: samples that one call computes, for the throughput.
        threads: that one call uses, for the record.
    """
    device, load = describe_device(), load_average()
    rounds = interleave({"own": call}, iterations=iterations, seconds=seconds, warmup=warmup)
    return _latency(rounds, "own", _here(device, load, batch, threads))


def compare_callables(
    own: Callable[[], object],
    baseline: Callable[[], object],
    *,
    iterations: int = ITERATIONS,
    seconds: float = SECONDS,
    warmup: int = WARMUP,
    batch: int = 1,
    threads: int = 1,
    seed: int = 0,
) -> Speedup:
    """Times two callables in turns, in this process. Arguments as `time_callable`."""
    device, load = describe_device(), load_average()
    rounds = interleave(
        {"baseline": baseline, "own": own},
        iterations=iterations,
        seconds=seconds,
        warmup=warmup,
        seed=seed,
    )
    return _speedups(rounds, _here(device, load, batch, threads), seed)["own"]


def _here(device: Device, load: float, batch: int, threads: int) -> dict[str, Any]:
    return {
        "batch": batch,
        "threads": threads,
        "runtime": "python",
        "device": device,
        "load_average": load,
    }


def _latency(rounds: Rounds, name: str, facts: Mapping[str, Any]) -> Latency:
    return Latency(samples_ms=rounds.samples_ms(name), warmup=rounds.warmup, **facts)


def _speedups(rounds: Rounds, facts: Mapping[str, Any], seed: int) -> dict[str, Speedup]:
    first = next(iter(rounds.slices_ms))
    baseline = _latency(rounds, first, facts)
    found = {}
    for name, slices in rounds.slices_ms.items():
        middle, low, high = ratio(rounds.slices_ms[first], slices, seed=seed)
        found[name] = Speedup(
            batch=facts["batch"],
            ratio=middle,
            low=low,
            high=high,
            baseline=baseline,
            own=_latency(rounds, name, facts),
        )
    return found
