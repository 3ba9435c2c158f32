"""Whether a budget holds, which step to hand back, and what to try next."""

from collections.abc import Callable, Sequence
from typing import Final

from tersenet.core.types import Bound, Budget, EditKind, Status, StepRecord
from tersenet.run.record import Verdict

__all__ = ["judge"]

_WAYS: Final = {
    "cost": "Lower keep in the prune step, or add a quantize step.",
    "quality": "Raise keep in the prune step, or epochs in the distill step.",
}
"""What to try where a bound is missed, by what it is of."""


def judge(
    records: Sequence[StepRecord],
    budget: Budget,
    *,
    seconds: float,
    slower: Callable[[int, int], bool] = lambda later, earlier: False,
) -> Verdict:
    """Returns the verdict on the step that meets the most bounds, the latest of equals.

    A step that overshoots one bound, accuracy say, thus does not bury an earlier one that holds
    them all. Nor does one whose file is `slower(later, earlier)` by what it changed, where the
    budget holds without it; without a budget the last step is what was asked for. The original
    is handed back only where no step was asked for.
    """
    checked = [budget.check(records[0], record) for record in records]
    met = [sum(bound.met for bound in bounds) for bounds in checked]
    steps = range(1, len(records)) or range(1)
    best = max(met[index] for index in steps)
    step, *later = (index for index in steps if met[index] == best)
    passed = []
    for index in later:
        if checked[index] and _is_rewritten(records[step + 1 : index + 1]) and slower(index, step):
            passed.append(index)
        else:
            step, passed = index, []
    bounds = tuple(checked[step])
    if not any(record.edits for record in records):
        status = Status.UNCHANGED
    elif all(bound.met for bound in bounds):
        status = Status.MET
    else:
        status = Status.MISSED
    return Verdict(
        status=status,
        bounds=bounds,
        advice=_advice(records, step, passed, status, bounds),
        seconds=seconds,
        step=step,
    )


def _is_rewritten(records: Sequence[StepRecord]) -> bool:
    """Whether what computes was changed, and not values alone, which take no time."""
    kinds = {edit.kind for record in records for edit in record.edits}
    return bool(kinds - {EditKind.TUNE, EditKind.MASK})


def _advice(
    records: Sequence[StepRecord],
    step: int,
    passed: Sequence[int],
    status: Status,
    bounds: Sequence[Bound],
) -> str:
    parts = []
    if passed:
        names = " and ".join(records[index].name for index in passed)
        met = status is Status.MET
        why = "and the budget does not need it" if met else "and it meets no more of the budget"
        parts.append(
            f"The file handed back is that of step {step}, {records[step].name}: {names} made it "
            f"slower here, {why}."
        )
    elif step != len(records) - 1:
        parts.append(
            f"The file handed back is that of step {step}, {records[step].name}: it meets more of "
            "the budget than the last one."
        )
    if status is Status.UNCHANGED:
        parts.append("No step changed anything: add one to the recipe.")
    elif status is Status.MISSED:
        missed = [bound for bound in bounds if not bound.met]
        parts.append(f"Missed: {'; '.join(bound.text for bound in missed)}.")
        parts += [way for of, way in _WAYS.items() if any(bound.of == of for bound in missed)]
    elif not bounds:
        parts.append("The recipe sets no budget: add one to have it checked.")
    else:
        parts.append("Every bound holds on this device; measure again on the one that ships.")
    return " ".join(parts)
