"""The main path: a subject flows through methods and is measured after each."""

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from tersenet.core.files import write_json
from tersenet.core.types import (
    Budget,
    Deployment,
    Edit,
    EditKind,
    Method,
    Outcome,
    Plan,
    Proof,
    Removal,
    Speedup,
    StepRecord,
    Subject,
    Workbench,
)
from tersenet.errors import StructureError
from tersenet.graph import prove
from tersenet.graph.blocks import prove_drops
from tersenet.measure import compare_many
from tersenet.repair import flush_denormals_
from tersenet.run.folder import RunFolder
from tersenet.run.measurement import measure
from tersenet.run.saved import History, load, save
from tersenet.run.verdict import judge
from tersenet.run.watch import SILENT, Watcher

__all__ = ["run_steps", "step_names"]


def run_steps(
    subject: Subject,
    steps: Sequence[Method[Any]],
    folder: RunFolder,
    history: History,
    *,
    budget: Budget,
    watch: Watcher = SILENT,
) -> Outcome:
    """Measures the original, then plans, applies, proves, measures and journals each step.

    Steps that the folder already holds are recalled, so a killed run goes on where it was. The
    caller's network is never changed.
    """
    count, subject = 1 + len(steps), dataclasses.replace(subject, original=subject.model)
    watch.begin(0, count, "original")
    model, record, history = _step(0, None, subject, folder, history, watch)
    subject, records = dataclasses.replace(subject, model=model, original=model), [record]
    for index, (name, method) in enumerate(zip(step_names(steps), steps, strict=True), 1):
        watch.begin(index, count, name)
        model, record, history = _step(index, method, subject, folder, history, watch, name)
        removal = _find_removal(method, subject, history, folder.step(index, record.name))
        done = tuple(edit for _, edits in history.steps for edit in edits)
        subject = dataclasses.replace(subject, model=model, edits=done, removal=removal)
        records.append(record)
    verdict = folder.verdict
    if verdict is None:
        watch.tick("comparing the steps", 0, 1)
        slower = _slower(records, budget, subject.deployment, folder.path)
        verdict = judge(records, budget, seconds=folder.wall_seconds, slower=slower)
        folder.finish(verdict)
    folder.adopt(records[verdict.step].files)
    return Outcome(
        model=load(folder.path, model=copy.deepcopy(subject.original)),
        status=verdict.status,
        steps=tuple(records),
        bounds=verdict.bounds,
        advice=verdict.advice,
        folder=folder.path,
        chosen=verdict.step,
    )


def _slower(
    records: Sequence[StepRecord], budget: Budget, deployment: Deployment, root: Path
) -> Callable[[int, int], bool]:
    """Returns whether a later step's file is surely slower than an earlier one's.

    Both were timed against the original, at different times: where that says so they are timed
    in turns, beside a second session of the earlier one, which shows what is noise.
    """
    batch = budget.batch if budget.batch in deployment.batches else min(deployment.batches)
    alone = dataclasses.replace(deployment, batches=(batch,))

    def at_batch(index: int) -> Speedup | None:
        return next(
            (speedup for speedup in records[index].speedups if speedup.batch == batch), None
        )

    def slower(later: int, earlier: int) -> bool:
        own, other = at_batch(later), at_batch(earlier)
        if own is None or other is None or own.high >= other.low:
            return False
        files = {
            step: root / records[index].files["onnx"]
            for step, index in (("earlier", earlier), ("again", earlier), ("later", later))
        }
        found = compare_many(
            files,
            deployment=alone,
            iterations=deployment.iterations,
            seconds=deployment.seconds,
        )
        return found["later"][0].high < min(1.0, found["again"][0].low)

    return slower


def step_names(steps: Sequence[Method[Any]]) -> list[str]:
    """Returns what each step is called; those that stand more than once are numbered."""
    plain = [f"{method.family} {method.title}" for method in steps]
    return [
        name if plain.count(name) == 1 else f"{name} {plain[: index + 1].count(name)}"
        for index, name in enumerate(plain)
    ]


def _step(
    index: int,
    method: Method[Any] | None,
    subject: Subject,
    folder: RunFolder,
    history: History,
    watch: Watcher,
    name: str = "original",
) -> tuple[nn.Module, StepRecord, History]:
    """Returns the network after one step, its record, and the history so far."""
    place = folder.step(index, name)
    record = folder.recall(index)
    if record is not None:
        if method:
            history = history.then(method, record.edits)
        watch.finish(record, recalled=True)
        return load(place, model=copy.deepcopy(subject.original)), record, history
    started = time.monotonic()
    bench = Workbench(folder=place, tick=watch.tick)
    model, edits, plan, proofs, flushed = subject.model, (), None, (), 0
    if method:
        plan = _plan(method, subject, bench, place)
        model, edits = method.apply(copy.deepcopy(subject.model), plan, subject, bench)
        proofs = _prove(name, method.reference(subject, bench), subject, model, edits)
        history = history.then(method, edits)
        flushed = flush_denormals_(model)
    seconds = time.monotonic() - started
    files = save(place, model.eval(), history, {"step": name})
    record = measure(
        dataclasses.replace(subject, model=model),
        place,
        baseline=folder.step(0, "original") / "model.onnx",
        files={kind: str(path.relative_to(folder.path)) for kind, path in files.items()},
        root=folder.path,
        tick=watch.tick,
        facts={
            "name": name,
            "settings": _settings(method) if method else {},
            "summary": plan.summary if plan else "the network as it came",
            "edits": tuple(edits),
            "skips": tuple(plan.skips) if plan else (),
            "proofs": proofs,
            "simulated": not all(edit.real for _, past in history.steps for edit in past),
            "seconds": seconds,
            "notes": (
                *getattr(plan, "notes", ()),
                *((f"{flushed:,} weights below 1e-30 set to zero",) if flushed else ()),
            ),
        },
    )
    folder.commit(index, record, wall_seconds=time.monotonic() - started)
    (place / "checkpoint.safetensors").unlink(missing_ok=True)
    watch.finish(record, recalled=False)
    return model, record, history


def _find_removal(
    method: Method[Any], subject: Subject, history: History, place: Path
) -> Removal | None:
    """Returns what repairs after this step have to make up for."""
    if method.repairs and subject.removal is not None:
        done = (*subject.removal.repaired, method.name)
        return dataclasses.replace(subject.removal, repaired=done)
    edits = history.steps[-1][1]
    if not method.removes or (edits and edits[-1].kind is EditKind.TUNE):
        return None  # what was trained since made up for it already
    was, bench = dataclasses.replace(subject, removal=None), Workbench(folder=place)
    return Removal(before=lambda: method.reference(was, bench), edits=edits)


def _plan(method: Method[Any], subject: Subject, bench: Workbench, place: Path) -> Plan:
    # A plan may rest on measured latency: once made it is kept, so that a resumed run goes on
    # with the same one.
    adapter: TypeAdapter[Any] = TypeAdapter(method.plan_type)
    path = place / "plan.json"
    if path.exists():
        return adapter.validate_json(path.read_bytes())
    plan = method.plan(subject, bench)
    write_json(path, adapter.dump_python(plan, mode="json"))
    return adapter.validate_json(path.read_bytes())


def _prove(
    name: str, before: nn.Module, subject: Subject, model: nn.Module, edits: Sequence[Edit]
) -> tuple[Proof, ...]:
    slices = [edit for edit in edits if edit.kind is EditKind.SLICE]
    dropped = any(edit.kind is EditKind.DROP for edit in edits)
    if not slices and not dropped:
        return ()
    inputs = tuple(subject.calibration[0][:1]) if subject.calibration else subject.example
    if dropped:
        proofs = prove_drops(before, model, edits, inputs)
    else:
        proofs = (prove(before, model, slices, inputs),)
    for proof in proofs:
        if not proof.holds:
            raise StructureError(
                f"{name} could not be proved: {proof.claim}, but the outputs differ by "
                f"{proof.max_error:.2g} where {proof.tolerance:.0e} is allowed; nothing was "
                "changed, report the network's architecture."
            )
    return proofs


def _settings(method: Method[Any]) -> Mapping[str, Any]:
    return TypeAdapter(type(method)).dump_python(method, mode="json")
