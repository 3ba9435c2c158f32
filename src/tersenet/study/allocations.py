"""One sparsity, shared out among the layers in four ways: which keeps most of the accuracy?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, final

from torch import nn

from tersenet.core.findings import Claim, LineChart, Series, Table
from tersenet.core.types import Score, Subject, Tick
from tersenet.graph.reading import evaluating
from tersenet.prune import Magnitude
from tersenet.prune.masks.allocation import Curve, by_sensitivity
from tersenet.study.folder import StudyFolder
from tersenet.study.subject import compress_copy
from tersenet.train import Classification, TopOne

__all__ = ["Allocations", "compare_allocations"]

_SPARSITIES: Final = (0.3, 0.5, 0.7, 0.9)
_UNIFORM: Final = "layer"
_WAYS: Final[tuple[Literal["layer", "global", "erk", "sensitivity"], ...]] = (
    _UNIFORM,
    "global",
    "erk",
    "sensitivity",
)


@final
@dataclass(frozen=True, kw_only=True)
class Allocations:
    """How each way did."""

    claim: Claim
    chart: LineChart
    table: Table


def compare_allocations(
    study: StudyFolder,
    model: nn.Module,
    task: Classification,
    curves: Mapping[str, Curve],
    sizes: Mapping[str, int],
    images: int,
    tick: Tick,
) -> Allocations:
    """Masks single weights to each sparsity in each way, and scores on the first test images.

    Without retraining.

    Args:
        study: keeps the scores.
        model: the dense network.
        task: its data.
        curves: what each site's own sparsity costs, in points.
        sizes: the weights of each site.
        images: of the test split, to score on.
        tick: told of the progress.
    """
    subject, judge = task.subject(model), TopOne(task.test.head(images))
    scores: dict[str, list[Score]] = {way: [] for way in _WAYS}
    for number, sparsity in enumerate(_SPARSITIES):
        tick("sharing out sparsity", number, len(_SPARSITIES))
        for way in _WAYS:
            if way == "sensitivity":  # by the curves at hand, not measured once more
                method = Magnitude(rates=by_sensitivity(curves, sizes, sparsity))
            else:
                method = Magnitude(sparsity=sparsity, scope=way)
            value = study.point(
                f"allocation {way} {sparsity:.2f}", partial(_accuracy, method, subject, judge)
            )
            name = judge.images.name
            scores[way].append(Score(value=value, samples=len(judge.images), split=name))
    return Allocations(
        claim=_claim(scores), chart=_chart(scores, judge), table=_table(scores, judge)
    )


def _accuracy(method: Magnitude, subject: Subject, judge: TopOne) -> float:
    with evaluating(model := compress_copy(method, subject)):
        return judge(model).value


def _claim(scores: Mapping[str, Sequence[Score]]) -> Claim:
    uneven = [way for way in scores if way != _UNIFORM]
    gaps = []
    for index, same in enumerate(scores[_UNIFORM]):
        best = max(uneven, key=lambda way: scores[way][index].value)
        found = scores[best][index]
        gaps.append((found.interval[0] - same.interval[1], index, best))
    gap, index, best = max(gaps)
    return Claim(
        text="Sparsity shared out by layer keeps more accuracy than the same sparsity everywhere",
        found="holds" if gap > 0 else "undecided",
        evidence=(
            f"At {100 * _SPARSITIES[index]:g} % of all weights zeroed, {best} keeps "
            f"{100 * scores[best][index].value:.1f} % and the same everywhere "
            f"{100 * scores[_UNIFORM][index].value:.1f} %, without retraining."
        ),
    )


def _chart(scores: Mapping[str, Sequence[Score]], judge: TopOne) -> LineChart:
    return LineChart(
        title="One sparsity shared out in four ways",
        x_label="share of all weights zeroed",
        y_label=f"top-1 on {judge.images.name}, %",
        series=tuple(
            Series.of(
                way,
                (
                    (sparsity, 100 * score.value, *(100 * end for end in score.interval))
                    for sparsity, score in zip(_SPARSITIES, own, strict=True)
                ),
            )
            for way, own in scores.items()
        ),
    )


def _table(scores: Mapping[str, Sequence[Score]], judge: TopOne) -> Table:
    return Table(
        name="allocations",
        title=f"Top-1 on {judge.images.name}, %, by how one sparsity is shared out",
        columns=("sparsity", *scores),
        rows=tuple(
            (sparsity, *(round(100 * own[index].value, 4) for own in scores.values()))
            for index, sparsity in enumerate(_SPARSITIES)
        ),
    )
