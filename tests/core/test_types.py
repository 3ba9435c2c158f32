"""Intervals, drops, percentiles and budgets against closed forms."""

from dataclasses import replace

import numpy as np
import pytest

from tersenet.core.types import (
    Budget,
    Cost,
    Device,
    Latency,
    Score,
    Speedup,
    StepRecord,
    Unmeasured,
)

DEVICE = Device(cpu="test", cores=1, memory_bytes=1, isa=("avx2",), system="test")


def latency(samples: list[float], *, batch: int = 1) -> Latency:
    return Latency(
        samples_ms=tuple(samples),
        batch=batch,
        threads=1,
        runtime="none",
        device=DEVICE,
        load_average=0.0,
        warmup=0,
    )


def record(
    *, correct: np.ndarray, ms: float, ratio: float = 1.0, file_bytes: int = 100
) -> StepRecord:
    own = latency([ms] * 3)
    return StepRecord(
        name="step",
        cost=Cost(
            file_bytes=file_bytes,
            params=1,
            nonzeros=1,
            macs=1000,
            peak_memory_bytes=Unmeasured("test"),
            latency=(own,),
        ),
        score=Score(
            value=float(correct.mean()), samples=len(correct), split="test", correct=correct
        ),
        speedups=(Speedup(batch=1, ratio=ratio, low=ratio, high=ratio, baseline=own, own=own),),
        seconds=0.0,
    )


def test_percentiles_are_the_standard_ones() -> None:
    one = latency([float(value) for value in range(1, 102)], batch=4)
    assert one.p50_ms == 51
    assert one.p95_ms == 96
    assert one.throughput == pytest.approx(4 / 0.051)


def test_wilson_interval_solves_its_own_equation() -> None:
    """Its ends are the shares p0 from which the found share lies z standard errors away."""
    score = Score(value=0.92, samples=10_000, split="test")
    for end in score.interval:
        z = (score.value - end) / (end * (1 - end) / score.samples) ** 0.5
        assert abs(z) == pytest.approx(1.959964, rel=1e-6)
    perfect = Score(value=1.0, samples=10, split="test").interval
    assert perfect[1] == pytest.approx(1.0)
    assert perfect[0] == pytest.approx(0.722467, abs=1e-6)


def test_a_paired_drop_is_the_mean_difference_with_its_standard_error() -> None:
    generator = np.random.default_rng(0)
    base = generator.random(4000) < 0.9
    worse = base & (generator.random(4000) < 0.98)
    drop, low, high = record(correct=worse, ms=1).score.drop_from(record(correct=base, ms=1).score)
    difference = 100 * (base.astype(float) - worse.astype(float))
    half = 1.959964 * difference.std() / len(base) ** 0.5
    assert (drop, low, high) == pytest.approx(
        (difference.mean(), difference.mean() - half, difference.mean() + half)
    )
    unpaired = Score(value=float(worse.mean()), samples=4000, split="test").drop_from(
        Score(value=float(base.mean()), samples=4000, split="test")
    )
    assert unpaired[0] == pytest.approx(drop)
    assert unpaired[2] - unpaired[1] > 2 * (high - low)


RIGHT = np.arange(1000) < 900
WORSE = np.arange(1000) < 890
FIRST = record(correct=RIGHT, ms=4.0)
LAST = record(correct=WORSE, ms=2.0, ratio=1.9, file_bytes=40)


@pytest.mark.parametrize(
    ("budget", "met"),
    [
        (Budget(), []),
        (Budget(latency_ms=2.0), [True]),
        (Budget(latency_ms=1.9), [False]),
        (Budget(latency_ms=9.0, batch=8), [False]),  # not measured is not met
        (Budget(speedup=1.9), [True]),
        (Budget(speedup=2.0), [False]),
        (Budget(speedup=1.0, batch=8), [False]),
        (Budget(file_bytes=40), [True]),
        (Budget(file_bytes=39), [False]),
        (Budget(macs=1000), [True]),
        (Budget(macs=999), [False]),
        (Budget(quality=0.89), [True]),
        (Budget(quality=0.8901), [False]),
        (Budget(max_drop=1.01), [True]),
        (Budget(max_drop=0.99), [False]),
        (Budget(latency_ms=1.0, file_bytes=100, max_drop=2.0), [False, True, True]),
    ],
)
def test_each_bound_of_a_budget(budget: Budget, met: list[bool]) -> None:
    bounds = budget.check(FIRST, LAST)
    assert [bound.met for bound in bounds] == met


def test_a_network_without_a_score_meets_no_bound_on_it() -> None:
    blind = replace(LAST, score=None)
    bounds = Budget(quality=0.1, max_drop=50.0).check(FIRST, blind)
    assert [bound.met for bound in bounds] == [False, False]


@pytest.mark.parametrize(
    ("isa", "has"), [(("avx2",), False), (("avx512f",), False), (("avx512_vnni",), True)]
)
def test_which_devices_sum_bytes_in_32_bits(isa: tuple[str, ...], has: bool) -> None:
    assert replace(DEVICE, isa=isa).has_int8_dot is has
