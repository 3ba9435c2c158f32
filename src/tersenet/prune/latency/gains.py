"""What it is worth to keep more units of a group: what a knapsack over widths maximises."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.core.types import Batch, Subject, Workbench
from tersenet.graph import ChannelGroup
from tersenet.graph.blocks import Block, drop
from tersenet.prune.channels.greedy import zero_unit_
from tersenet.prune.counts import best_units
from tersenet.train.loss import summed_loss

__all__ = ["block_gains", "loss_gains", "recalibrated_loss", "score_gains"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def score_gains(
    scores: Mapping[str, Tensor], options: Mapping[str, Sequence[int]], *, comparable: bool
) -> dict[str, np.ndarray]:
    """Returns the sum of the best scores at each count.

    Unless the scores are `comparable` across groups, they are taken as multiples of their group's
    mean: groups of many or large filters would otherwise win by their size alone.
    """
    gains = {}
    for name, counts in options.items():
        best = scores[name].double().sort(descending=True).values
        kept = torch.cat([torch.zeros(1), best.cumsum(0)])  # by count
        scale = 1.0 if comparable else float(best.mean().clamp_min(1e-30))
        gains[name] = np.array([float(kept[count]) / scale for count in counts])
    return gains


def loss_gains(
    subject: Subject,
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, Tensor],
    options: Mapping[str, Sequence[int]],
    data: Sequence[Batch],
    bench: Workbench,
) -> dict[str, np.ndarray]:
    """Returns minus the loss, in nats per sample, when one group alone keeps each count.

    Measured with the group's lowest units at zero and batch-norm statistics taken anew, as
    training would: the loss right after a removal says more of shifted statistics than of what
    was lost.

    Raises:
        DataError: if there is no loss for the targets of the data.
    """
    least = recalibrated_loss(subject, copy.deepcopy(subject.model), data)
    gains = {}
    for done, group in enumerate(groups):
        bench.tick("measuring losses", done, len(groups))
        losses = []
        for count in options[group.name]:
            if count == group.size:
                losses.append(least)
                continue
            model = copy.deepcopy(subject.model)
            kept = set(best_units(scores[group.name], count))
            for unit in set(range(group.size)) - kept:
                zero_unit_(model, group, unit)
            losses.append(recalibrated_loss(subject, model, data))
        gains[group.name] = -np.array(losses)
    return gains


def block_gains(
    subject: Subject, blocks: Sequence[Block], data: Sequence[Batch], bench: Workbench
) -> dict[str, np.ndarray]:
    """Returns minus the loss without each block alone, and with it. Measured as `loss_gains`."""
    least = recalibrated_loss(subject, copy.deepcopy(subject.model), data)
    gains = {}
    for done, block in enumerate(blocks):
        bench.tick("measuring losses without blocks", done, len(blocks))
        model = copy.deepcopy(subject.model)
        drop(model, {block.name: block.swaps})
        gains[block.name] = -np.array([recalibrated_loss(subject, model, data), least])
    return gains


def recalibrated_loss(subject: Subject, model: nn.Module, data: Sequence[Batch]) -> float:
    """Returns the mean loss in nats after taking batch-norm statistics on the same data."""
    norms = [module for module in model.modules() if isinstance(module, _BATCH_NORMS)]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    with torch.no_grad():
        for inputs, _ in data if norms else ():
            model(inputs)
        model.eval()
        losses = [float(summed_loss(subject, model(inputs), targets)) for inputs, targets in data]
    return sum(losses) / sum(len(inputs) for inputs, _ in data)
