"""What is real and what is simulated, step by step, and how to reproduce it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from markupsafe import Markup

from tersenet.core.types import Latency
from tersenet.report import quantities
from tersenet.report.figures import Number, figure
from tersenet.report.records import Records
from tersenet.run.record import Header

__all__ = ["Reality", "RealityRow", "Reproduction", "reality", "reproduction"]


@final
@dataclass(frozen=True, kw_only=True)
class RealityRow:
    """One step."""

    index: int
    name: str
    simulated: bool
    executed: str
    """What ran to give its latency."""
    edits: str
    int8: Number | str


@final
@dataclass(frozen=True, kw_only=True)
class Reality:
    """How the figures came about."""

    sentences: Sequence[Markup]
    rows: Sequence[RealityRow]


@final
@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What reruns the run."""

    command: str
    recipe: str
    source: str
    facts: Sequence[tuple[str, Markup]]


def reality(records: Records) -> Reality:
    """Says of each figure how it was obtained."""
    sentences = [Markup("Bytes are those of the exported files on disk.")]
    sentences += [*_latency_sentence(records), *_score_sentence(records)]
    simulated = [step.name for step in records.steps if step.simulated]
    if simulated:
        text = Markup(
            "Simulated: {}. There at least one edit only imitates its effect, so bytes and "
            "latency are not yet those of a network that makes use of it."
        )
        sentences.append(text.format(", ".join(simulated)))
    else:
        sentences.append(Markup("No step is simulated."))
    share = records.int8_share(records.chosen)
    if share:
        text = Markup("In the file handed back {} of the multiply-accumulates run in int8 kernels.")
        sentences.append(text.format(share))
    return Reality(
        sentences=sentences, rows=[_row(records, index) for index in range(len(records.steps))]
    )


def _latency_sentence(records: Records) -> list[Markup]:
    found = _any_latency(records, records.chosen)
    if found is None:
        return [Markup("No latency was recorded for the step handed back.")]
    path, latency = found
    text = Markup(
        "Latency is wall time on {}, threads: {}, {} samples a step after {} warm-up "
        "inferences; speed-ups come from samples interleaved with the original's."
    )
    threads = figure(f"{path}.threads", latency.threads, quantities.count)
    samples = figure(f"length({path}.samples_ms)", len(latency.samples_ms), quantities.count)
    warmup = figure(f"{path}.warmup", latency.warmup, quantities.count)
    return [text.format(latency.runtime, threads, samples, warmup)]


def _score_sentence(records: Records) -> list[Markup]:
    score = records.steps[records.chosen].score
    if score is None:
        return [Markup("The step handed back was not scored.")]
    text = Markup("{} counts {} samples of {}.")
    metric = score.metric[:1].upper() + score.metric[1:]
    return [text.format(metric, records.samples(records.chosen), score.split)]


def _row(records: Records, index: int) -> RealityRow:
    step, found = records.steps[index], _any_latency(records, index)
    real = sum(edit.real for edit in step.edits)
    imitated = len(step.edits) - real
    counted = [f"{real:,} real"] * bool(real) + [f"{imitated:,} simulated"] * bool(imitated)
    return RealityRow(
        index=index,
        name=step.name,
        simulated=step.simulated,
        executed=f"the file, on {found[1].runtime}" if found else "not measured",
        edits=", ".join(counted) or "none",
        int8="not int8" if step.int8_share is None else records.int8_share(index),
    )


def _any_latency(records: Records, step: int) -> tuple[str, Latency] | None:
    found = (records.latency(step, batch) for batch in records.batches)
    return next((sentence for sentence in found if sentence is not None), None)


def reproduction(header: Header) -> Reproduction:
    """Returns command, recipe and environment."""
    seed = figure("header.seed", header.seed, str)
    threads = figure("header.threads", header.threads, quantities.count)
    facts = [
        ("Seed", Markup("{}").format(seed)),
        ("Threads while training", Markup("{}").format(threads)),
        ("Started", Markup("{}").format(header.started)),
        ("Device", Markup("{}").format(header.device.cpu)),
        ("System", Markup("{}").format(header.device.system)),
        *((name, Markup("{}").format(version)) for name, version in header.versions.items()),
    ]
    return Reproduction(
        command=header.command, recipe=header.recipe, source=header.source, facts=facts
    )
