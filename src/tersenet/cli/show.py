"""What the commands print: tables for a person, JSON for a program."""

import json as json_module
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from tersenet.core.findings import Findings
from tersenet.core.types import Device, Outcome, StepRecord, Unmeasured
from tersenet.graph import Inspection
from tersenet.measure import BenchResult
from tersenet.run import RunSummary, Trained, step_to_json

__all__ = [
    "show_bench",
    "show_findings",
    "show_inspection",
    "show_outcome",
    "show_run",
    "show_trained",
    "step_line",
]


def step_line(record: StepRecord) -> str:
    """Returns one finished step in one line."""
    parts = [f"{record.name}: {record.summary}", f"{record.cost.file_bytes:,} B"]
    parts += [f"{speedup.ratio:.2f}× at batch {speedup.batch}" for speedup in record.speedups[:1]]
    if record.score:
        parts.append(f"{record.score.metric} {100 * record.score.value:.2f} %")
    return " · ".join(parts)


def show_outcome(outcome: Outcome, *, json: bool) -> None:
    """Prints a finished run: the table of steps, the verdict, and where things lie."""
    files = {
        "report": str(outcome.report),
        **{kind: str(outcome.artifact(kind)) for kind in outcome.steps[outcome.chosen].files},
    }
    if json:
        _print_json(
            {
                "status": outcome.status.value,
                "bounds": [{"text": bound.text, "met": bound.met} for bound in outcome.bounds],
                "advice": outcome.advice,
                "chosen": outcome.chosen,
                "files": files,
                "steps": [_step_json(step) for step in outcome.steps],
            }
        )
        return
    console = _console()
    _print_ladder(console, outcome.steps)
    for record in outcome.steps:
        for proof in record.proofs:
            console.print(
                f"{record.name}: {proof.claim}: {proof.max_error:.2g} ≤ {proof.tolerance:.2g}",
                soft_wrap=True,
            )
        for note in record.remarks:
            console.print(f"{record.name}: {note}", soft_wrap=True, markup=False)
    latencies = [latency for record in outcome.steps for latency in record.cost.latency]
    for device in dict.fromkeys(latency.device for latency in latencies):
        _print_device(console, device)
    bounds = " · ".join(f"{bound.text} {'✓' if bound.met else '✗'}" for bound in outcome.bounds)
    title = {"met": "Budget met", "missed": "Budget MISSED", "unchanged": "Nothing changed"}
    console.print(f"{title[outcome.status]}{': ' + bounds if bounds else ''}", soft_wrap=True)
    console.print(outcome.advice, soft_wrap=True)
    for kind, path in files.items():
        console.print(f"{kind:<12} {path}", soft_wrap=True)


def show_run(summary: RunSummary, report: Path, *, json: bool) -> None:
    """Prints a run as its journal tells it."""
    if json:
        verdict = summary.verdict
        _print_json(
            {
                "name": summary.header.name,
                "status": verdict.status.value if verdict else "unfinished",
                "report": str(report),
                "steps": [_step_json(step) for step in summary.steps],
            }
        )
        return
    console = _console()
    _print_ladder(console, summary.steps)
    _print_device(console, summary.header.device)
    console.print(f"report       {report}", soft_wrap=True)


def show_trained(trained: Trained, *, json: bool) -> None:
    """Prints a finished training."""
    score = trained.score
    low, high = score.interval
    if json:
        _print_json(
            {
                "top-1": score.value,
                "interval": [low, high],
                "samples": score.samples,
                "split": score.split,
                "params": trained.params,
                "weights": str(trained.weights),
                "file_bytes": trained.weights.stat().st_size,
            }
        )
        return
    console = _console()
    console.print(
        f"top-1 {100 * score.value:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f}) on "
        f"{score.samples:,} samples of {score.split}, {trained.params:,} parameters",
        soft_wrap=True,
    )
    console.print(f"weights      {trained.weights}", soft_wrap=True)


def show_findings(findings: Findings, folder: Path, *, json: bool) -> None:
    """Prints what a study found, and where its page lies."""
    if json:
        _print_json(TypeAdapter(Findings).dump_python(findings, mode="json"))
        return
    console = _console()
    for claim in findings.claims:
        console.print(f"{claim.found}: {claim.text}", style="bold", soft_wrap=True)
        console.print(f"    {claim.evidence}", soft_wrap=True)
    for note in findings.notes:
        console.print(note, soft_wrap=True)
    for table in findings.tables:
        console.print(f"{table.title:<12} {folder / table.name}.csv", soft_wrap=True)
    console.print(f"report       {folder / 'report.html'}", soft_wrap=True)


def show_bench(result: BenchResult, *, json: bool) -> None:
    """Prints files measured in turns."""
    if json:
        _print_json(TypeAdapter(BenchResult).dump_python(result, mode="json"))
        return
    console = _console()
    table = Table("file", "batch", "p50 ms", "p95 ms", "per second", "against A", "95 %")
    for column in table.columns[1:]:
        column.justify = "right"
    for letter, file in zip(string.ascii_uppercase, result.files, strict=False):
        memory = file.peak_memory_bytes
        peak = "not measured" if isinstance(memory, Unmeasured) else f"{memory / 1e6:.1f} MB"
        console.print(
            f"{letter}  {file.name}  {file.file_bytes:,} B, peak memory {peak}", soft_wrap=True
        )
        for speedup in file.speedups:
            own = speedup.own
            table.add_row(
                letter,
                str(speedup.batch),
                f"{own.p50_ms:.3g}",
                f"{own.p95_ms:.3g}",
                f"{own.throughput:,.0f}",
                f"{speedup.ratio:.2f}×",
                f"{speedup.low:.2f}–{speedup.high:.2f}",
            )
    console.print(table)
    _print_device(console, result.device)
    for note in result.notes:
        console.print(note, soft_wrap=True)


def show_inspection(inspection: Inspection, *, json: bool) -> None:
    """Prints layers, groups and what is frozen."""
    if json:
        _print_json(TypeAdapter(Inspection).dump_python(inspection, mode="json"))
        return
    console = _console()
    layers = Table("layer", "kind", "weight", "output", "params", "MACs", title="Layers")
    for column in layers.columns[2:]:
        column.justify = "right"
    for layer in inspection.layers:
        layers.add_row(
            layer.site,
            layer.kind,
            "×".join(map(str, layer.weight)),
            "×".join(map(str, layer.output)),
            f"{layer.params:,}",
            f"{layer.macs:,}",
        )
    layers.add_section()
    layers.add_row(
        "all, with norms",
        "",
        "",
        "",
        f"{inspection.params:,}",
        f"{inspection.macs:,}",
    )
    console.print(layers)
    groups = Table(
        "group", "units", "MACs a unit", "params a unit", "filters of", title="Can be pruned"
    )
    for column in groups.columns[1:4]:
        column.justify = "right"
    for group in inspection.groups:
        groups.add_row(
            group.name,
            str(group.size),
            f"{group.macs_per_channel:,}",
            f"{group.params_per_channel:,}",
            ", ".join(group.sources),
        )
    console.print(groups)
    changes = {change: None for group in inspection.groups for change in group.changes}
    for change in changes:
        names = [group.name for group in inspection.groups if change in group.changes]
        console.print(f"Another function with fewer units: {change}, in {', '.join(names)}")
    frozen = Table("cannot be pruned", "why", title="Frozen")
    for skip in inspection.frozen:
        frozen.add_row(skip.site, skip.reason)
    console.print(frozen)


def _step_json(step: StepRecord) -> dict[str, Any]:
    return {**step_to_json(step), "notes": list(step.remarks)}


def _print_device(console: Console, device: Device) -> None:
    console.print(f"Measured on {device.cpu}. {device.meaning}", soft_wrap=True, markup=False)


def _print_ladder(console: Console, steps: Sequence[StepRecord]) -> None:
    size = Table(
        "step", "file", "top-1", "MACs", "params", "seconds", title="Every step, as its file"
    )
    latency = Table(
        "step",
        title="Latency of the file: p50 / p95, times faster than the original, 95 % interval",
    )
    for batch in (speedup.batch for speedup in steps[0].speedups):
        latency.add_column(f"batch {batch}", justify="right")
    for column in size.columns[1:]:
        column.justify = "right"
    whole = steps[0].cost.file_bytes
    for record in steps:
        cost, name = record.cost, record.name + (" (simulated)" if record.simulated else "")
        size.add_row(
            name,
            f"{cost.file_bytes:,} B\n{whole / cost.file_bytes:.2f}× fewer",
            _score(record),
            f"{cost.macs:,}",
            f"{cost.params:,}",
            f"{record.seconds:.1f}",
        )
        timings = (
            f"{speedup.own.p50_ms:.3g} / {speedup.own.p95_ms:.3g} ms\n"
            f"{speedup.ratio:.2f}×\n{speedup.low:.2f}–{speedup.high:.2f}"
            for speedup in record.speedups
        )
        latency.add_row(name, *timings)
    for table in (size, latency):
        table.show_lines = True
        console.print(table)


def _score(record: StepRecord) -> str:
    if record.score is None:
        return "not measured"
    low, high = record.score.interval
    return (
        f"{100 * record.score.value:.2f} %\n{100 * low:.2f}–{100 * high:.2f}\n"
        f"of {record.score.samples:,}"
    )


def _console() -> Console:
    return Console(highlight=False)


def _print_json(value: Any) -> None:
    print(json_module.dumps(value, indent=1, allow_nan=False))
