"""One step, measured on the file that would ship."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tersenet.core.files import CODED
from tersenet.core.types import Cost, Speedup, StepRecord, Subject, Tick
from tersenet.export import kernels, to_onnx
from tersenet.graph import layers, macs, parameters
from tersenet.measure import compare, energy_per_inference, peak_memory, predictor
from tersenet.run.agreement import agreement_of

__all__ = ["measure"]


def measure(
    subject: Subject,
    place: Path,
    *,
    baseline: Path,
    files: Mapping[str, str],
    root: Path,
    facts: Mapping[str, Any],
    tick: Tick,
) -> StepRecord:
    """Exports the network, checks the file against it, and measures the file.

    Args:
        subject: whose model is measured.
        place: the step's folder; model.onnx is written there.
        baseline: the original's file, to be measured against in turns.
        files: already written, by kind, relative to `root`.
        root: the run folder.
        facts: the record's fields that are not measured here.
        tick: told what is being done.

    Raises:
        ExportError, ParityError, MeasureError: as the functions called.
    """
    stages = iter(range(1, 7))
    deployment = subject.deployment

    def say(text: str) -> None:
        tick(text, next(stages), 6)

    model, path = subject.model.eval(), place / "model.onnx"
    say("exporting")
    converted = to_onnx(model, subject.example, path)
    predict = predictor(path, deployment=deployment)
    say("checking the file against the network")
    encoded = any(name.endswith(".levels") for name, _ in model.named_buffers())
    agreement = agreement_of(subject, path, converted, encoded=encoded)
    say("measuring accuracy")
    score = subject.quality(predict) if subject.quality else None
    say("measuring latency")
    speedups = compare(
        path,
        baseline,
        deployment=deployment,
        iterations=deployment.iterations,
        seconds=deployment.seconds,
    )
    facts = dict(facts)
    facts["proofs"] = (*facts["proofs"], *agreement.proofs)
    facts["notes"] = (*facts["notes"], *agreement.notes)
    return StepRecord(
        **facts,
        cost=_cost(subject, path, speedups, say),
        score=score,
        speedups=speedups,
        layers=tuple(layers(model, subject.example)),
        int8_share=kernels(path).int8_share if encoded else None,
        files={**files, "onnx": str(path.relative_to(root))},
    )


def _cost(
    subject: Subject, path: Path, speedups: Sequence[Speedup], say: Callable[[str], None]
) -> Cost:
    """Returns what the file at `path` costs, beside what was timed; `say` is told of the work."""
    say("measuring memory")
    memory = peak_memory(path, deployment=subject.deployment)
    say("measuring energy")
    energy = energy_per_inference(path, deployment=subject.deployment)
    params, nonzeros = parameters(subject.model)
    coded = path.with_name(CODED)
    return Cost(
        file_bytes=path.stat().st_size,
        coded_bytes=coded.stat().st_size if coded.exists() else None,
        params=params,
        nonzeros=nonzeros,
        macs=macs(subject.model, subject.example),
        peak_memory_bytes=memory,
        latency=tuple(speedup.own for speedup in speedups),
        energy=energy,
    )
