"""Imprinting: how well a layer's output separates the classes, judged without training.

Qi, Brown, Lowe, "Low-Shot Learning with Imprinted Weights", 2018, arXiv:1712.07136: the weights
of a classifier are the mean embeddings of the classes. Elkerdawy, Elhoushi, Singh, Zhang, Ray,
"One-Shot Layer-Wise Accuracy Approximation for Layer Pruning", ICIP 2020: imprinted after each
layer, their accuracy tells what the layer adds; "To Filter Prune, or to Layer Prune, That Is the
Question", 2020, arXiv:2007.05667.
"""

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from tersenet.core.types import Subject
from tersenet.errors import DataError
from tersenet.graph.blocks import Block, Program
from tersenet.prune.layers.judging import LAYER_CRITERIA, LayerCriterion

__all__ = ["Imprint", "imprint", "pooled", "predicted"]


def imprint(
    embeddings: Float[Tensor, "sample feature"], labels: Int[Tensor, " sample"], *, classes: int
) -> Float[Tensor, "class feature"]:
    """Returns the mean embedding of each class, W_c = 1/N_c Σ_n [c_n = c] e_n; zero where none."""
    member = functional.one_hot(labels, classes).to(embeddings.dtype)  # (sample, class)
    return member.T @ embeddings / member.sum(0).clamp_min(1)[:, None]


def predicted(
    embeddings: Float[Tensor, "sample feature"],
    weights: Float[Tensor, "class feature"],
    *,
    cosine: bool,
) -> Int[Tensor, " sample"]:
    """Returns argmax_c W_c · e_n; with `cosine`, of W_c / |W_c|.

    Raw, a class of large embeddings attracts every sample.
    """
    if cosine:
        weights = functional.normalize(weights, dim=1)
    return (embeddings @ weights.T).argmax(1)


def pooled(
    values: Float[Tensor, "sample ..."], *, features: int = 512
) -> Float[Tensor, "sample feature"]:
    """Returns embeddings of about `features` numbers, so that layers compare.

    Images (sample, C, height, width) are averaged to d × d places, d = round(√(features / C));
    sequences (sample, place, C) over their places.
    """
    if values.ndim == 4:
        side = max(1, round(math.sqrt(features / values.shape[1])))
        return functional.adaptive_avg_pool2d(values, side).flatten(1)
    return values.mean(1) if values.ndim == 3 else values.flatten(1)


@final
@LAYER_CRITERIA.register("imprint")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Imprint(LayerCriterion):
    """Scores a layer by what it adds to the accuracy of imprinted classifiers.

    The gain of a block is the accuracy with its output as the embedding less that with its
    input, as shares of 1. Each half of the calibration samples is judged by the class means of
    the other. Needs data with class labels.
    """

    batches: int = Field(default=40, gt=0)
    """Calibration batches to look at, at most."""
    cosine: bool = True
    """Whether class means are scaled to length one; without, as the first paper writes it."""
    features: int = Field(default=512, gt=0)
    """About how many numbers an embedding has."""

    def accuracy(self, subject: Subject, names: Sequence[str]) -> dict[str, float]:
        """Returns the share of samples right for each value of the network's graph, by name.

        Raises:
            DataError: if there are no calibration samples with class labels.
        """
        data = subject.calibration[: self.batches]
        if not data or any(labels.is_floating_point() or labels.ndim != 1 for _, labels in data):
            raise DataError(
                "imprinting has no calibration samples with class labels: give some, or use a "
                "criterion on weights, such as l1."
            )
        program, wanted = Program(subject.model, subject.example), frozenset(names)
        embeddings: dict[str, list[Tensor]] = {name: [] for name in names}
        for inputs, _ in data:
            for name, value in program.values(wanted, (inputs,)).items():
                embeddings[name].append(pooled(value, features=self.features))
        labels = torch.cat([own for _, own in data])
        return {name: self._right(torch.cat(own), labels) for name, own in embeddings.items()}

    def score(self, subject: Subject, blocks: Sequence[Block]) -> dict[str, float]:
        """Returns each block's gain. Raises as `accuracy`."""
        right = self.accuracy(subject, _points(blocks))
        return {block.name: right[block.exit] - right[block.entry] for block in blocks}

    def curve(self, subject: Subject, blocks: Sequence[Block]) -> Mapping[str, float]:
        """Returns the accuracy before the first block and after each. Raises as `accuracy`."""
        right = self.accuracy(subject, _points(blocks))
        first = {"before": right[blocks[0].entry]} if blocks else {}
        return first | {block.name: right[block.exit] for block in blocks}

    def _right(
        self, embeddings: Float[Tensor, "sample feature"], labels: Int[Tensor, " sample"]
    ) -> float:
        even = torch.arange(len(labels)) % 2 == 0
        right = 0
        for half in (even, ~even):
            weights = imprint(embeddings[half], labels[half], classes=int(labels.max()) + 1)
            answers = predicted(embeddings[~half], weights, cosine=self.cosine)
            right += int((answers == labels[~half]).sum())
        return right / len(labels)


def _points(blocks: Sequence[Block]) -> list[str]:
    return list(dict.fromkeys(point for block in blocks for point in (block.entry, block.exit)))
