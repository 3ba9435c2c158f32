"""Greedy removal with any criterion: a few units go, the rest is judged anew."""

import copy
import dataclasses

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tersenet import graph
from tersenet.core.types import Subject, Workbench
from tersenet.prune import L1, L2, Channels, Random
from tersenet.prune.channels.greedy import zero_unit_


def subject() -> Subject:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 7, 3, bias=False), nn.ReLU(), nn.Conv2d(7, 9, 3, bias=False), nn.ReLU(),
        nn.Conv2d(9, 5, 1, bias=False), nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip
    return Subject(model=model.eval(), example=(torch.randn(2, 2, 6, 6),))


def test_all_at_a_time_is_one_shot() -> None:
    for criterion in (L1(), L2(), Random()):
        method = Channels(criterion=criterion, keep=0.6, multiple_of=None)
        once = method.plan(subject(), Workbench())
        greedy = dataclasses.replace(method, at_a_time=99).plan(subject(), Workbench())
        assert greedy.keep == once.keep
        assert greedy.params == once.params


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_scores_are_of_what_is_left(at_a_time: int) -> None:
    whole = subject()
    method = Channels(criterion=L2(), keep=0.5, multiple_of=None, at_a_time=at_a_time)
    groups = graph.trace(whole.model, whole.example).groups
    masked = Subject(model=copy.deepcopy(whole.model), example=whole.example)
    left = {group.name: set(range(group.size)) for group in groups}
    total = sum(map(len, left.values()))
    goal = total - int(0.5 * total)
    first = {name: one.mean() for name, one in L2().score(masked, groups).items()}
    done = 0
    while done < goal:
        scores = L2().score(masked, groups)
        for _ in range(min(at_a_time, goal - done)):
            _, name, unit = min(
                (float(scores[name][unit] / first[name]), name, unit)
                for name, units in left.items() if len(units) > 1 for unit in units
            )  # fmt: skip
            left[name].remove(unit)
            zero_unit_(masked.model, next(one for one in groups if one.name == name), unit)
            done += 1
    plan = method.plan(whole, Workbench())
    assert {name: set(units) for name, units in plan.keep.items()} == left
    once = Channels(criterion=L2(), keep=0.5, multiple_of=None).plan(whole, Workbench())
    assert plan.keep != once.keep  # judging anew made a difference


def test_what_it_needs_is_said() -> None:
    with pytest.raises(ValidationError, match="at_a_time needs multiple_of: null"):
        Channels(criterion=L1(), at_a_time=1)
    with pytest.raises(ValidationError, match="at_a_time needs multiple_of: null"):
        Channels(criterion=L1(), at_a_time=1, multiple_of=None, scope="layer")
