"""Timing candidates against each other, so that what disturbs one disturbs all.

On a shared machine the time of the same call drifts by half within minutes, while the ratio of
two calls made in turns holds. So candidates run in rounds (A B A B), in a new random order each
round, a slice of several calls each, after one untimed call that brings the caches back.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

__all__ = ["Rounds", "interleave"]

# Long enough that the clock and the switch between candidates do not matter …
SLICE_MS: Final = 10.0
# … yet no longer than this many calls, so that even few samples make many rounds.
LEAST_CALLS: Final = 4
MOST_CALLS: Final = 25
MOST_SAMPLES: Final = 10
"""Times the number asked for: fast candidates stop there, before their time is up."""


@final
@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Samples of all candidates, round by round."""

    order: tuple[tuple[str, ...], ...]
    """The candidates of each round, as they were run."""
    slices_ms: Mapping[str, tuple[tuple[float, ...], ...]]
    """The wall time of each timed call in milliseconds, by candidate and round."""
    warmup: int
    """Untimed calls of each candidate before its first sample."""

    def samples_ms(self, name: str) -> tuple[float, ...]:
        """Returns all samples of one candidate, in the order they were taken."""
        return tuple(sample for part in self.slices_ms[name] for sample in part)

    def as_json(self) -> dict[str, Any]:
        """Returns the rounds as JSON values."""
        return {"order": self.order, "slices_ms": self.slices_ms, "warmup": self.warmup}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Rounds":
        """Returns the rounds that `as_json` was of."""
        return cls(
            order=tuple(map(tuple, values["order"])),
            slices_ms={
                name: tuple(map(tuple, parts)) for name, parts in values["slices_ms"].items()
            },
            warmup=values["warmup"],
        )


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    *,
    iterations: int = 100,
    seconds: float = 1.0,
    warmup: int = 10,
    seed: int = 0,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Rounds:
    """Times candidates in turns.

    Args:
        candidates: what to call, by name.
        iterations: least number of samples of each.
        seconds: time for each to go on for, beyond that number, up to ten times as many.
        warmup: calls of each before the first round.
        seed: of the order within rounds.
        clock_ns: wall clock in nanoseconds.
    """
    slowest_ms, warmed = _warm_up(candidates, warmup, seconds, clock_ns)
    calls = min(MOST_CALLS, max(LEAST_CALLS, round(SLICE_MS / max(slowest_ms, 1e-6))), iterations)
    shuffle = random.Random(seed).shuffle
    order: list[tuple[str, ...]] = []
    slices: dict[str, list[tuple[float, ...]]] = {name: [] for name in candidates}
    begun, limit_ns = clock_ns(), 1e9 * seconds * len(candidates)
    # A collection would fall on whichever candidate happened to allocate last.
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while (taken := calls * len(order)) < iterations or (
            taken < MOST_SAMPLES * iterations and clock_ns() - begun < limit_ns
        ):
            names = list(candidates)
            shuffle(names)
            for name in names:
                slices[name].append(_slice(candidates[name], calls, clock_ns))
            order.append(tuple(names))
    finally:
        if collecting:
            gc.enable()
    return Rounds(
        order=tuple(order),
        slices_ms={name: tuple(parts) for name, parts in slices.items()},
        warmup=warmed + 1,
    )


def _warm_up(
    candidates: Mapping[str, Callable[[], object]],
    calls: int,
    seconds: float,
    clock_ns: Callable[[], int],
) -> tuple[float, int]:
    """Returns the slowest candidate's time in milliseconds, and the calls made of each."""
    times: dict[str, list[int]] = {name: [] for name in candidates}
    begun, made = clock_ns(), 0
    # Two calls at least: the first one allocates, and is no guide to the time of the others.
    while made < 2 or (made < calls and clock_ns() - begun < 1e9 * seconds * len(candidates)):
        for name, call in candidates.items():
            start = clock_ns()
            call()
            times[name].append(clock_ns() - start)
        made += 1
    return max(statistics.median(part[1:]) for part in times.values()) / 1e6, made


def _slice(
    call: Callable[[], object], calls: int, clock_ns: Callable[[], int]
) -> tuple[float, ...]:
    call()  # untimed: the caches still hold the other candidate
    samples = []
    for _ in range(calls):
        start = clock_ns()
        call()
        samples.append((clock_ns() - start) / 1e6)
    return tuple(samples)
