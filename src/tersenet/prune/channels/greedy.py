"""Greedy removal: the least unit goes, the rest is judged anew."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tersenet.core.types import Subject, Workbench
from tersenet.graph import ChannelGroup
from tersenet.graph.reading import tensors_of

__all__ = ["greedy", "zero_unit_"]

Scores = Callable[[Subject, Sequence[ChannelGroup]], Mapping[str, Tensor]]


def greedy(
    score: Scores,
    subject: Subject,
    groups: Sequence[ChannelGroup],
    *,
    keep: float,
    at_a_time: int,
    least: int,
    by_mean: bool = False,
    bench: Workbench,
) -> dict[str, tuple[int, ...]]:
    """Returns the units that stay in each group.

    What is removed is zeroed on a copy between the scorings, which computes what the smaller
    network will.

    Args:
        score: one score per unit for each group by name.
        subject: the network and its data, left as they were.
        groups: the groups to remove units from.
        keep: the share of all units that stays.
        at_a_time: units to remove between two scorings.
        least: units that every group keeps at least, or all it has.
        by_mean: whether scores are compared across groups as multiples of their group's mean
            in the first scoring; else as they are, so they must be of one unit, such as nats.
        bench: told of the progress.
    """
    masked = dataclasses.replace(subject, model=copy.deepcopy(subject.model))
    left = {group.name: set(range(group.size)) for group in groups}
    by_name = {group.name: group for group in groups}
    whole = sum(map(len, left.values()))
    goal = whole - int(keep * whole + 1e-9)  # 0.7 * 10 is 7.000000000000001
    done, scales = 0, dict.fromkeys(left, 1.0)
    while done < goal:
        scored = score(masked, groups)
        if by_mean and done == 0:
            scales = {name: own.mean().clamp_min(1e-30).item() for name, own in scored.items()}
        scores = {name: (own / scales[name]).tolist() for name, own in scored.items()}
        order = sorted(
            (scores[name][unit], name, unit) for name, units in left.items() for unit in units
        )
        before = done
        for _, name, unit in order:
            if done == min(goal, before + at_a_time):
                break
            if len(left[name]) > least:
                left[name].remove(unit)
                zero_unit_(masked.model, by_name[name], unit)
                done += 1
        if done == before:
            break  # every group is down to its least
        bench.tick("removing units", done, goal)
    return {name: tuple(sorted(units)) for name, units in left.items()}


def zero_unit_(model: nn.Module, group: ChannelGroup, unit: int) -> None:
    """Sets to zero all that belongs to a unit, in place: the network computes as if without it."""
    tensors = tensors_of(model)
    with torch.no_grad():
        for member in group.members:
            tensor = tensors[member.tensor]
            gone = torch.tensor(member.indices[unit], dtype=torch.long, device=tensor.device)
            tensor.index_fill_(member.dim, gone, 0)
