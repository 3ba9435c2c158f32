"""Whether a budget holds, which step to hand back, and what to try next."""

from collections.abc import Sequence

from tersenet.core.types import Bound, Budget, Status, StepRecord
from tersenet.run.record import Verdict

__all__ = ["judge"]


def judge(records: Sequence[StepRecord], budget: Budget, *, seconds: float) -> Verdict:
    """Returns the verdict on the step that meets the most bounds, the latest of equals.

    The original is handed back only where no step was asked for.

    A step that overshoots one bound, accuracy say, thus does not bury an earlier one that holds
    them all.
    """
    checked = [budget.check(records[0], record) for record in records]
    steps = range(1, len(records)) or range(1)
    step = max(steps, key=lambda i: (sum(bound.met for bound in checked[i]), i))
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
        advice=_advice(records, step, status, bounds),
        seconds=seconds,
        step=step,
    )


def _advice(
    records: Sequence[StepRecord], step: int, status: Status, bounds: Sequence[Bound]
) -> str:
    parts = []
    if step != len(records) - 1:
        parts.append(
            f"The file handed back is that of step {step}, {records[step].name}: it meets more of "
            "the budget than the last one."
        )
    if status is Status.UNCHANGED:
        parts.append("No step changed anything: add one to the recipe.")
    elif status is Status.MISSED:
        missed = [bound.text for bound in bounds if not bound.met]
        parts.append(f"Missed: {'; '.join(missed)}.")
        if any(text.startswith(("file", "MACs", "p50", "speed-up")) for text in missed):
            parts.append("Lower keep in the prune step, or add a quantize step.")
        if any(text.startswith(("drop", "top-1", "quality")) for text in missed):
            parts.append("Raise keep in the prune step, or epochs in the distill step.")
    elif not bounds:
        parts.append("The recipe sets no budget: add one to have it checked.")
    else:
        parts.append("Every bound holds on this device; measure again on the one that ships.")
    return " ".join(parts)
