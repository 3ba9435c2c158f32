"""The best choice within a time, against brute force; the budget against the clock."""

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

from tersenet.graph import trace
from tersenet.models import resnet
from tersenet.timing.fit import Offset, fit_to_time
from tersenet.timing.table import LatencyTable, kind_of
from tersenet.timing.width_choice import widths_within
from tersenet.timing.width_costs import TableCosts, widths_of

Counts = dict[str, int]


class Concatenated(nn.Module):
    """Three layers read by one, as in densely connected networks."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(1, 4, 3, padding=1) for _ in range(3))
        self.join = nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([branch(x).relu() for branch in self.branches], 1)
        return self.head(self.join(joined).relu().mean((2, 3)))


def planted(model: nn.Module, example: torch.Tensor) -> tuple[TableCosts, dict[str, tuple]]:
    """Costs that are 1 + in · out for every layer, and three counts for each group."""
    graph = trace(model.eval(), (example,))
    options = {one.name: (one.size // 4 or 1, one.size // 2, one.size) for one in graph.groups}
    widths = range(1, 1 + max(max(site.layer.weight[:2]) for site in graph.sites))
    grid = {(reads, makes): 1.0 + reads * makes for reads in widths for makes in widths}
    table = LatencyTable(times={kind_of(site): grid for site in graph.sites})
    sizes = {one.name: one.size for one in graph.groups}
    return TableCosts(table=table, layers=widths_of(graph, graph.groups), sizes=sizes), options


def worth_of(options: Mapping[str, tuple], seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: np.sort(generator.random(len(one))) for name, one in options.items()}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_widths_are_the_best_of_all_within_the_budget(share: float) -> None:
    costs, options = planted(resnet(depth=8, in_channels=1, width=4), torch.randn(2, 1, 8, 8))
    worth = worth_of(options, seed=int(10 * share))
    budget = share * costs.ms(costs.sizes)
    best = -1.0
    for choice in itertools.product(range(3), repeat=len(options)):
        picks = dict(zip(options, choice, strict=True))
        if costs.ms({name: options[name][i] for name, i in picks.items()}) <= budget:
            best = max(best, sum(worth[name][i] for name, i in picks.items()))
    found = widths_within(costs, options, worth, budget_ms=budget)
    assert costs.ms(found) <= budget
    value = sum(worth[name][options[name].index(n)] for name, n in found.items())
    assert value == pytest.approx(best, abs=1e-9)


def test_where_many_groups_meet_the_costs_settle_within_the_budget() -> None:
    costs, options = planted(Concatenated(), torch.randn(2, 1, 6, 6))
    whole, cheapest = costs.ms(costs.sizes), {name: one[0] for name, one in options.items()}
    for share in (0.5, 0.7, 0.9):
        found = widths_within(costs, options, worth_of(options, 0), budget_ms=share * whole)
        assert costs.ms(found) <= share * whole
        assert found != cheapest
    assert widths_within(costs, options, worth_of(options, 0), budget_ms=0.0) == cheapest


@pytest.mark.parametrize("asked", [0.3, 0.5, 0.9])
def test_the_budget_is_corrected_until_the_clock_agrees(asked: float) -> None:
    def choose(budget: float) -> Counts:
        return {"group": max(1, min(1000, int(1000 * budget)))}

    def estimate(counts: Counts) -> float:
        return counts["group"] / 1000

    trials = fit_to_time(
        choose, lambda counts: 0.2 + 0.8 * estimate(counts), estimate, asked=asked, attempts=6
    )
    assert 0.97 * asked <= trials[-1].share <= asked
    assert trials[-1].share == 0.2 + 0.8 * trials[-1].estimate
    assert len(trials) <= 6


@pytest.mark.parametrize("asked", [0.4, 0.7])
def test_a_shift_finds_what_is_beside_the_layers(asked: float) -> None:
    """Whatever is not in the estimate is made up for at the second attempt."""
    attempts = fit_to_time(
        lambda budget: {"group": int(1000 * budget)},
        lambda counts: 0.15 + counts["group"] / 1000,
        asked=asked,
        attempts=4,
        correct=Offset(),
    )
    assert len(attempts) == 2
    assert attempts[-1].share == pytest.approx(0.975 * asked, abs=1e-3)


def test_a_shift_ends_where_a_choice_comes_again() -> None:
    timed = []
    attempts = fit_to_time(
        lambda budget: "all that there is",
        lambda choice: timed.append(choice) or 0.9,
        asked=0.5,
        attempts=4,
        correct=Offset(),
    )
    assert [one.share for one in attempts] == [0.9]
    assert len(timed) == 1


def test_of_what_cannot_meet_the_budget_the_fastest_is_taken() -> None:
    trials = fit_to_time(
        lambda budget: {"group": 1 if budget < 0.2 else 2},
        lambda counts: 0.3 + counts["group"] / 10,
        lambda counts: counts["group"] / 10,
        asked=0.25,
        attempts=6,
    )
    assert trials[-1].share == pytest.approx(0.4)
    assert trials[-1].share > 0.25
