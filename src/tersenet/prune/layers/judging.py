"""What layers are judged by: their filters' scores, or a criterion of layers itself."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from tersenet.core.entry import Part
from tersenet.core.parts import Parts
from tersenet.core.types import Subject
from tersenet.graph.blocks import Block
from tersenet.prune.criterion import CRITERIA, Criterion

__all__ = ["LAYER_CRITERIA", "LAYER_CRITERION", "LayerCriterion", "layer_criteria", "layer_scores"]


class LayerCriterion(abc.ABC):
    """Scores whole layers: the lowest are missed least. Written as a `Criterion` is."""

    name: ClassVar[str]
    """What a recipe calls it."""

    @abc.abstractmethod
    def score(self, subject: Subject, blocks: Sequence[Block]) -> dict[str, float]:
        """Returns one score for each block by name; the lowest go first.

        Raises:
            DataError: if data that it needs is missing.
        """


LAYER_CRITERIA: Final = Parts[type[LayerCriterion]](
    "criterion", package="tersenet.prune.layers", plugins="tersenet.criteria"
)
"""Criteria of layers alone, by name."""


def layer_criteria() -> Mapping[str, type[Any]]:
    """Returns all that layers can be judged by, by the name in a recipe.

    Places in an order within a group say nothing across layers.
    """
    filters = {name: kind for name, kind in CRITERIA.items() if not kind.ordinal}
    return {**filters, **LAYER_CRITERIA}


LAYER_CRITERION: Final = Part("criterion", layer_criteria)
"""Annotates an option that takes any of them, as `name: {options}`."""


def layer_scores(
    criterion: Criterion | LayerCriterion, subject: Subject, blocks: Sequence[Block]
) -> dict[str, float]:
    """Returns the score of each block: the criterion's own, or the mean of its filters'."""
    if isinstance(criterion, LayerCriterion):
        return criterion.score(subject, blocks)
    groups = {group.name: group for block in blocks for group in block.filters}
    scores = criterion.score(subject, list(groups.values()))
    sums = {name: (float(own.double().sum()), len(own)) for name, own in scores.items()}
    means = {}
    for block in blocks:
        total, count = map(sum, zip(*(sums[group.name] for group in block.filters), strict=True))
        means[block.name] = total / count
    return means
