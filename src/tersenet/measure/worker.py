"""The process that measures: fresh, bound to the least busy cores, free of PyTorch.

    python -m tersenet.measure.worker < request.json > answer.json

The request and the answer are JSON objects; `tersenet.measure.process` writes and reads them.
"""

import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from tersenet.core.host.children import die_with
from tersenet.core.host.system import (
    bind_to_,
    idle_seconds,
    load_average,
    peak_resident_bytes,
    usable_cores,
)
from tersenet.core.unmeasured import Unmeasured
from tersenet.errors import FormatError, MeasureError
from tersenet.measure.rapl import counters, joules
from tersenet.measure.rounds import interleave
from tersenet.measure.runtimes import RUNTIMES, open_session
from tersenet.measure.session import Session

__all__ = ["main"]

OBSERVED_SECONDS: Final = 0.15
"""How long the cores are watched to find the least busy."""


def latency(request: Mapping[str, Any]) -> dict[str, Any]:
    """Times files in turns at each batch size: samples by batch, file and round."""
    sessions = {name: _open(request, path) for name, path in request["files"].items()}
    found = []
    for batch in request["batches"]:
        calls = {
            name: functools.partial(
                session.run, _checked_feeds(session, batch=batch, seed=request["seed"])
            )
            for name, session in sessions.items()
        }
        rounds = interleave(
            calls,
            iterations=request["iterations"],
            seconds=request["seconds"],
            warmup=request["warmup"],
            seed=request["seed"],
        )
        found.append({"batch": batch, **rounds.as_json()})
    return {"batches": found}


def memory(request: Mapping[str, Any]) -> dict[str, Any]:
    """Loads one file, where one is given, runs it once, and reads the peak resident set."""
    importlib.import_module(RUNTIMES[request["runtime"]].package)
    if request["files"]:
        session = _open(request, next(iter(request["files"].values())))
        session(session.random_feeds(batch=request["batch"], seed=request["seed"]))
    return {"peak_bytes": _peak_bytes()}


def network(request: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a network's file of `tersenet.formats`, which needs no other runtime."""
    formats = importlib.import_module("tersenet.formats")
    # Kernels need Numba's compiler, whatever the network: it counts as the runtime's own.
    _ = formats.Packed.encode(np.eye(2)) @ np.ones(2)
    if request["files"]:
        found = formats.load_network(next(iter(request["files"].values())))
        shape = (request["batch"], *found.input_shape)
        found(np.random.default_rng(request["seed"]).standard_normal(shape, np.float32))
    return {"peak_bytes": _peak_bytes(), "torch": "torch" in sys.modules}


def energy(request: Mapping[str, Any]) -> dict[str, Any]:
    """Runs one file at batch 1 for a while between two readings of the energy counters."""
    session = _open(request, next(iter(request["files"].values())))
    call = functools.partial(session.run, _checked_feeds(session, batch=1, seed=request["seed"]))
    found = counters(Path(request["root"]))
    for _ in range(request["warmup"]):
        call()
    made, end = 0, time.perf_counter() + request["seconds"]
    before = [counter.read_uj() for counter in found]
    while made == 0 or time.perf_counter() < end:
        call()
        made += 1
    after = [counter.read_uj() for counter in found]
    used = sum(joules(*reading) for reading in zip(found, before, after, strict=True))
    return {"joules": used, "inferences": made, "counters": [counter.name for counter in found]}


TASKS: Final[dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "latency": latency,
    "memory": memory,
    "network": network,
    "energy": energy,
}


def main() -> int:
    """Answers the request on standard input; returns the exit code."""
    # A runtime's native code may write to standard output: only the answer goes there.
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    if "parent" in request:
        die_with(request["parent"])
    try:
        answer = {"load_average": load_average(), "pinned": _pin(request["threads"])}
        answer |= TASKS[request["task"]](request)
    except (MeasureError, FormatError) as error:
        answer = {"error": str(error)}
    with answer_to:
        json.dump(answer, answer_to)
    return 1 if "error" in answer else 0


def _open(request: Mapping[str, Any], path: str) -> Session:
    return open_session(
        Path(path),
        runtime=request["runtime"],
        threads=request["threads"],
        # Pruned weights decay into subnormal numbers, which take many times as long.
        flush_denormals=True,
    )


def _checked_feeds(session: Session, *, batch: int, seed: int) -> dict[str, Any]:
    feeds = session.random_feeds(batch=batch, seed=seed)
    session(feeds)  # an error of the runtime, here, becomes a sentence
    return feeds


def _pin(threads: int) -> list[int]:
    """Binds this process to the `threads` cores that were least busy just now."""
    cores = list(usable_cores())
    if threads > len(cores):
        raise MeasureError(
            f"{threads} threads need as many cores and this process may use {len(cores)}: "
            "measure with fewer threads."
        )
    if threads < len(cores):
        before = idle_seconds()
        time.sleep(OBSERVED_SECONDS)
        after = idle_seconds()
        idle = {core: after.get(core, 0) - before.get(core, 0) for core in cores}
        cores = sorted(sorted(cores, key=lambda core: -idle[core])[:threads])
    return list(bind_to_(cores))


def _peak_bytes() -> int:
    peak = peak_resident_bytes()
    if isinstance(peak, Unmeasured):
        raise MeasureError(f"{peak.reason}.")
    return peak


if __name__ == "__main__":
    sys.exit(main())
