"""Sensitivity: what each layer's sparsity costs when the other layers stay dense.

Han, Pool, Tran, Dally, 2015, arXiv:1506.02626, section 3.1; Li et al., 2016, arXiv:1608.08710,
section 3.2. Without retraining: it ranks layers, and is no forecast of the accuracy after it.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import DataError
from tersenet.graph.reading import evaluating, tensors_of
from tersenet.prune.masks.allocation import Curve
from tersenet.prune.masks.units import Units, zero_
from tersenet.train.loss import summed_loss

__all__ = ["LEVELS", "loss_curves", "zeroed"]

LEVELS: Final = tuple(round(0.05 * i, 2) for i in range(20))
"""0 to 0.95 in steps of 0.05."""


@contextmanager
def zeroed(model: nn.Module, units: Units, sparsity: float) -> Iterator[nn.Module]:
    """Zeroes the share `sparsity` of a weight's units in place, and puts it back afterwards."""
    weight = tensors_of(model)[units.tensor]
    kept = weight.detach().clone()
    try:
        zero_(weight, units, round(sparsity * units.count))
        yield model
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def loss_curves(subject: Subject, weights: Sequence[Units], bench: Workbench) -> dict[str, Curve]:
    """Returns the rise in loss, in nats per calibration sample, at each of `LEVELS`, by tensor.

    Raises:
        DataError: if there is no calibration data, or no loss for its targets.
    """
    if not subject.calibration:
        raise DataError(
            "scope: sensitivity has no calibration data to judge layers on: give some, or take "
            "another scope, such as erk."
        )
    model = copy.deepcopy(subject.model)
    base, steps = _loss(model, subject), len(weights) * (len(LEVELS) - 1)
    curves: dict[str, Curve] = {}
    for index, units in enumerate(weights):
        curve = [(0.0, 0.0)]
        for done, level in enumerate(LEVELS[1:], 1 + index * (len(LEVELS) - 1)):
            with zeroed(model, units, level):
                curve.append((level, _loss(model, subject) - base))
            bench.tick(f"sensitivity of {units.site}", done, steps)
        curves[units.tensor] = curve
    return curves


def _loss(model: nn.Module, subject: Subject) -> float:
    with evaluating(model), torch.no_grad():
        losses = [
            float(summed_loss(subject, model(inputs), targets))
            for inputs, targets in subject.calibration
        ]
    return sum(losses) / sum(len(inputs) for inputs, _ in subject.calibration)
