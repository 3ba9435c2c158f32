"""Budgets: what is met, which step is handed back, what is advised."""

import dataclasses

import numpy as np
import pytest

from tersenet.core.types import (
    Budget,
    Cost,
    Device,
    Edit,
    EditKind,
    Latency,
    Score,
    Speedup,
    Status,
    StepRecord,
    Unmeasured,
)
from tersenet.run.verdict import judge

DEVICE = Device(cpu="test", cores=2, memory_bytes=1, isa=(), system="Linux")
TUNE = Edit(site="*", kind=EditKind.TUNE, before="", after="")


def timed(milliseconds: float) -> Latency:
    return Latency(
        samples_ms=(milliseconds,) * 5,
        batch=1,
        threads=1,
        runtime="onnxruntime",
        device=DEVICE,
        load_average=0.0,
        warmup=1,
    )


def step(*, file_bytes: int, right: int, ratio: float = 1.0, changed: bool = True) -> StepRecord:
    own = timed(10 / ratio)
    return StepRecord(
        name="step",
        cost=Cost(
            file_bytes=file_bytes,
            params=10,
            nonzeros=10,
            macs=100,
            peak_memory_bytes=Unmeasured("no"),
            latency=(own,),
        ),
        score=Score(
            value=right / 1000, samples=1000, split="test", correct=np.arange(1000) < right
        ),
        speedups=(
            Speedup(batch=1, ratio=ratio, low=ratio, high=ratio, baseline=timed(10), own=own),
        ),
        edits=(TUNE,) if changed else (),
        seconds=1.0,
    )


ORIGINAL = step(file_bytes=1000, right=930, changed=False)
SMALL = step(file_bytes=200, right=925, ratio=2.0)


@pytest.mark.parametrize(
    ("budget", "met"),
    [
        (Budget(file_bytes=200), True),
        (Budget(file_bytes=199), False),
        (Budget(speedup=2.0), True),
        (Budget(speedup=2.1), False),
        (Budget(latency_ms=5.0), True),
        (Budget(latency_ms=4.9), False),
        (Budget(macs=100), True),
        (Budget(macs=99), False),
        (Budget(quality=0.925), True),
        (Budget(quality=0.926), False),
        (Budget(max_drop=0.5), True),
        (Budget(max_drop=0.4), False),
        (Budget(speedup=1.0, batch=8), False),  # not measured is not met
        (Budget(file_bytes=200, max_drop=0.4), False),
    ],
)
def test_bounds(budget: Budget, met: bool) -> None:
    verdict = judge([ORIGINAL, SMALL], budget, seconds=1.0)
    assert (verdict.status is Status.MET) == met
    assert verdict.step == 1


def test_an_earlier_step_that_holds_is_not_buried() -> None:
    ruined = step(file_bytes=100, right=500, ratio=3.0)
    budget = Budget(file_bytes=300, max_drop=1.0)
    verdict = judge([ORIGINAL, SMALL, ruined], budget, seconds=1.0)
    assert verdict.status is Status.MET
    assert verdict.step == 1
    assert "step 1" in verdict.advice


FAST, SLOW = step(file_bytes=200, right=925, ratio=1.89), step(file_bytes=100, right=925, ratio=1.5)
INTEGERS = Edit(site="conv", kind=EditKind.ENCODE, before="fp32", after="int8")


def slower(later: int, earlier: int) -> bool:
    """By the records below: the second step's file is the slower one."""
    return (later, earlier) == (2, 1)


@pytest.mark.parametrize(
    ("budget", "edit", "chosen"),
    [
        (Budget(file_bytes=300, speedup=1.4), INTEGERS, 1),  # both hold: the faster one
        (Budget(file_bytes=150, speedup=1.4), INTEGERS, 2),  # the budget needs the small one
        (Budget(file_bytes=50), INTEGERS, 1),  # neither holds
        (Budget(), INTEGERS, 2),  # no budget: what was asked for
        (Budget(file_bytes=300), TUNE, 2),  # training takes no time: the clock is wrong
    ],
)
def test_a_slower_step_is_kept_only_where_the_budget_needs_it(
    budget: Budget, edit: Edit, chosen: int
) -> None:
    records = [ORIGINAL, FAST, dataclasses.replace(SLOW, edits=(edit,), name="quantize static")]
    verdict = judge(records, budget, seconds=1.0, slower=slower)
    assert verdict.step == chosen
    assert ("quantize static made it slower here" in verdict.advice) == (chosen == 1)
    needless = "and the budget does not need it" in verdict.advice
    assert needless == (chosen == 1 and verdict.status is Status.MET)


def test_nothing_done_is_unchanged() -> None:
    assert judge([ORIGINAL], Budget(), seconds=1.0).status is Status.UNCHANGED


def test_a_miss_says_what_to_try() -> None:
    verdict = judge([ORIGINAL, SMALL], Budget(file_bytes=10), seconds=1.0)
    assert verdict.status is Status.MISSED
    assert "file 200 B ≤ 10 B" in verdict.advice
    assert "Lower keep" in verdict.advice
    assert "Raise keep" not in verdict.advice
    scored = dataclasses.replace(SMALL, score=dataclasses.replace(SMALL.score, metric="mAP"))
    verdict = judge([ORIGINAL, scored], Budget(quality=0.99), seconds=1.0)
    assert verdict.advice.startswith("Missed: mAP 92.50 % ≥ 99 %. Raise keep")


def test_paired_interval_equals_mcnemar_by_hand() -> None:
    base, own = np.array([1, 1, 1, 0, 1, 0] * 50) == 1, np.array([1, 0, 1, 1, 1, 0] * 50) == 1
    first = Score(value=base.mean(), samples=300, split="t", correct=base)
    then = dataclasses.replace(first, value=own.mean(), correct=own)
    drop, low, high = then.drop_from(first)
    lost, won, n = 50, 50, 300  # answers that changed, each way
    half = 1.959964 * np.sqrt(lost + won - (lost - won) ** 2 / n) / n
    assert drop == pytest.approx(100 * (lost - won) / n)
    assert (low, high) == pytest.approx((100 * (drop / 100 - half), 100 * (drop / 100 + half)))


def test_wilson_interval_against_its_equation() -> None:
    score = Score(value=0.93, samples=10_000, split="t")
    for bound in score.interval:
        # The interval's ends solve (p̂ - p)² = z² p (1 - p) / n.
        left = (score.value - bound) ** 2
        assert left == pytest.approx(1.959964**2 * bound * (1 - bound) / score.samples)
