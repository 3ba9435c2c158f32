"""Is low rank better reached in stages? Rounds of factoring and training against one round.

Gusak et al., "MUSCO: Multi-Stage Compression of neural networks", 2019, arXiv:1903.09973: compress
a little, fine-tune, repeat. The paper gives each round its own training, so that two rounds train
twice as long as one; one round that trains as long as both stands beside them.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Final, final

from scipy.stats import t as student
from torch import nn

from tersenet.core.findings import Claim, Findings, LineChart, Series, Table, decide
from tersenet.core.types import Subject, Tick, Workbench, no_tick
from tersenet.decompose import DecomposePlan, Decomposition, Manual, Rate, Tucker
from tersenet.distill import Response
from tersenet.errors import MeasureError
from tersenet.study.folder import open_study
from tersenet.study.registry import STUDIES
from tersenet.study.subject import compress_copy, digests
from tersenet.train import Classification

__all__ = ["ARMS", "Arm", "Staged", "factor_in_rounds", "study_staged_low_rank"]


@final
@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to the same ranks."""

    name: str
    rounds: int
    length: int
    """Trainings of one round's length in all."""


@final
@dataclass(frozen=True, kw_only=True)
class Staged:
    """A network brought to low rank."""

    params: int
    accuracy: tuple[float, ...]
    """Top-1 from 0 to 1 after each factoring and after each training, in turns."""


ARMS: Final = (
    Arm(name="one round", rounds=1, length=1),
    Arm(name="two rounds", rounds=2, length=2),
    Arm(name="one round, trained as long as two", rounds=1, length=2),
)


def factor_in_rounds(subject: Subject, *, rounds: int, times: float, training: Response) -> Staged:
    """Factors to `times` fewer weights a layer in equal ratios, and trains after each factoring.

    The ranks of the last round are those that one round would take, so that the sizes are equal.

    Args:
        subject: with the network, its data and its original; it is not changed.
        rounds: of factoring and training.
        times: fewer parameters in each factored layer at the end.
        training: of each round.

    Raises:
        StructureError: if no layer can be factored.
    """
    methods = [_at(subject, times ** ((k + 1) / rounds)) for k in range(rounds)]
    quality, accuracy = subject.quality, []
    assert quality is not None
    for factoring in methods:
        for method in (factoring, training):
            subject = replace(subject, model=compress_copy(method, subject))
            accuracy.append(quality(subject.model).value)
    params = sum(parameter.numel() for parameter in subject.model.parameters())
    return Staged(params=params, accuracy=tuple(accuracy))


@STUDIES.register("staged-low-rank")
def study_staged_low_rank(
    model: nn.Module,
    task: Classification,
    *,
    folder: Path,
    tick: Tick = no_tick,
    times: float = 6.0,
    epochs: float = 0.25,
    learning_rate: float = 0.01,
    seeds: int = 3,
) -> Findings:
    """Is low rank better reached in two rounds of factoring and training than in one?

    A network is brought to low rank in three ways, with several orders of the training data.

    Args:
        model: A trained network; it is not changed.
        task: Its data.
        folder: Folder of the study.
        tick: Told of the progress.
        times: Fewer parameters in each layer that Tucker-2 takes, at the end.
        epochs: Of each round's training, on the original's answers.
        learning_rate: Its peak.
        seeds: Orders of the training data.

    Raises:
        MeasureError: if there are no seeds or epochs, or nothing is to get smaller.
        StructureError: if no layer can be factored.
        RunError: if the folder holds another study, or cannot be written.
    """
    if seeds < 1 or epochs <= 0 or times <= 1:
        raise MeasureError(
            f"seeds is {seeds}, epochs {epochs:g} and times {times:g}: give at least one seed, "
            "more than no training, and more than 1 times fewer parameters."
        )
    settings = {
        "times": times,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "seeds": seeds,
    }
    found: dict[str, list[Staged]] = {arm.name: [] for arm in ARMS}
    of = digests(model, task)
    with open_study(folder, name="staged-low-rank", settings=settings, of=of) as study:
        for seed in range(seeds):
            subject = replace(task, seed=seed).subject(copy.deepcopy(model).eval())
            for number, arm in enumerate(ARMS):
                name = f"{arm.name}, seed {seed}"
                tick(name, seed * len(ARMS) + number, seeds * len(ARMS))
                training = Response(
                    epochs=epochs * arm.length / arm.rounds,
                    learning_rate=learning_rate,
                    precision="auto",
                )
                measure = partial(_measure_arm, subject, arm, times, training)
                params, *accuracy = study.point(name, measure)
                found[arm.name].append(Staged(params=int(params), accuracy=tuple(accuracy)))
    whole = sum(parameter.numel() for parameter in model.parameters())
    return _findings(found, whole, epochs, task)


def _measure_arm(subject: Subject, arm: Arm, times: float, training: Response) -> list[float]:
    reached = factor_in_rounds(subject, rounds=arm.rounds, times=times, training=training)
    return [reached.params, *reached.accuracy]


def _at(subject: Subject, times: float) -> Decomposition:
    """Returns Tucker-2 at the ranks that have `times` fewer parameters in each layer."""
    plan: DecomposePlan = Tucker(ranks=Rate(times=times)).plan(subject, Workbench())
    ranks = {name: choice.ranks for name, choice in plan.chosen.items()}
    return Tucker(ranks=Manual(layers=ranks), only=tuple(ranks), batches=len(subject.calibration))


def _findings(
    found: Mapping[str, Sequence[Staged]], whole: int, epochs: float, task: Classification
) -> Findings:
    single, two, long = ([100 * run.accuracy[-1] for run in found[arm.name]] for arm in ARMS)
    params = next(iter(found.values()))[0].params
    return Findings(
        name="staged-low-rank",
        question="Is low rank better reached in two rounds of factoring and training than in one?",
        claims=(
            _compare("Two rounds, each with its training, end above one round.", two, single),
            _compare("Two rounds end above one round that trains as long as both.", two, long),
        ),
        charts=(
            LineChart(
                title="Accuracy at the end, by order of the training data",
                x_label="order of the training data",
                y_label="top-1, %",
                joined=False,
                series=tuple(
                    Series.of(arm.name, ((float(seed), value) for seed, value in enumerate(own)))
                    for arm, own in zip(ARMS, (single, two, long), strict=True)
                ),
            ),
        ),
        tables=(_table(found),),
        conditions={
            "size": f"{params:,} of {whole:,} parameters, the same in all ways",
            "training": f"{epochs:g} epochs a round, on the original's answers",
            "trained on": task.train.name,
            "judged on": task.test.name,
            "factors": "Tucker-2, refitted by least squares after each factoring",
        },
    )


def _table(found: Mapping[str, Sequence[Staged]]) -> Table:
    return Table(
        name="rounds",
        title="Top-1 in % after each factoring and each training",
        columns=(
            *("way", "seed", "parameters", "factored", "trained"),
            *("factored again", "trained again"),
        ),
        rows=tuple(
            (
                *(name, seed, run.params),
                *(round(100 * value, 2) for value in run.accuracy),
                *([None] * (4 - len(run.accuracy))),
            )
            for name, runs in found.items()
            for seed, run in enumerate(runs)
        ),
    )


def _compare(claim: str, own: Sequence[float], other: Sequence[float]) -> Claim:
    """Decided where the paired 95 % interval of the difference (Student's t) leaves out zero."""
    gaps = [a - b for a, b in zip(own, other, strict=True)]
    middle = mean(gaps)
    if len(gaps) < 2:
        evidence = f"{middle:+.2f} points, with one order alone."
        return Claim(text=claim, found="undecided", evidence=evidence)
    half = float(student.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / len(gaps) ** 0.5
    return Claim(
        text=claim,
        found=decide(middle - half, middle + half),
        evidence=f"{middle:+.2f} ± {half:.2f} points ({mean(own):.2f} against {mean(other):.2f} %) "
        f"over {len(gaps)} orders of the training data.",
    )
