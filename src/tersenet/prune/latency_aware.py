"""Pruning to a share of the original's measured time.

Which units stay is a knapsack: their worth within a budget of latency, with counts that the
runtime likes. Shen et al., "Structural Pruning via Latency-Saliency Knapsack" (HALP), 2022,
arXiv:2210.06659. Costs depend on the widths on both sides of each layer, as in Sun et al.,
"MDP", 2025, arXiv:2504.02168. Then the whole file is timed, and the budget corrected by it.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method, methods
from tersenet.core.types import Edit, Method, Skip, Subject, Workbench
from tersenet.errors import DataError, StructureError
from tersenet.graph import Graph, replay, trace
from tersenet.prune.counts import best_units
from tersenet.prune.ecc import latency_model
from tersenet.prune.file_time import Counts, FileTimer, Trial, fit_to_time, smaller_network
from tersenet.prune.gains import loss_gains, score_gains
from tersenet.prune.knapsack import Factor, TooCoupledError, solve, total
from tersenet.prune.score import ChannelScore
from tersenet.prune.staircase import Staircase
from tersenet.prune.taylor import Taylor
from tersenet.prune.width_costs import Costs, measure_costs

__all__ = ["LatencyAware", "LatencyPlan"]

_ROUNDS = 8  # of costs taken anew at the counts found
_BATCHES = 2  # of calibration data to measure losses on: some 40 networks are measured


def _criterion(value: Any) -> Any:
    """Reads `name` or `name: {options}` as a recipe has it."""
    if isinstance(value, ChannelScore):
        return value
    known = {name: one for name, one in methods("prune").items() if issubclass(one, ChannelScore)}
    entry = {value: {}} if isinstance(value, str) else value
    if not isinstance(entry, Mapping) or len(entry) != 1 or not set(entry) <= set(known):
        raise ValueError(
            f"a criterion is one of {', '.join(sorted(known))}, as 'name: {{options}}'"
        )
    ((name, options),) = entry.items()
    return TypeAdapter(known[name]).validate_python(options or {})


def _entry(value: ChannelScore) -> dict[str, Any]:
    return {value.name: TypeAdapter(type(value)).dump_python(value, mode="json")}


Criterion = Annotated[ChannelScore, BeforeValidator(_criterion), PlainSerializer(_entry)]


@final
@plain_dataclass(frozen=True, kw_only=True)
class LatencyPlan:
    """The units each group keeps, and the time that leaves."""

    criterion: str
    keep: dict[str, tuple[int, ...]]
    """The units that stay, for each group considered."""
    sizes: dict[str, int]
    """The units that each of these groups has."""
    asked: float
    """Share of the original's time."""
    reached: float
    """Share of the original's time that this takes, by `source`."""
    source: Literal["measured", "estimated"]
    """measured: the file, timed; estimated: the sum of its layers, where a later step decides
    what file that is."""
    batch: int
    tried: tuple[tuple[float, float], ...]
    """(estimated share, reached share) of each choice that was tried."""
    params: tuple[int, int]
    """Before and after."""
    macs: tuple[int, int]
    """Of one sample, before and after."""
    staircases: tuple[Staircase, ...] = ()
    skips: tuple[Skip, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the budget is kept."""
        return self.reached <= self.asked

    @property
    def summary(self) -> str:
        """One line for a person."""
        (params, fewer_params), (macs, fewer_macs) = self.params, self.macs
        missed = "" if self.met else ", MISSED: the fastest of what was tried"
        return (
            f"{self.criterion}: takes {100 * self.reached:.1f} % of the original's time at batch "
            f"{self.batch}, {self.source} ({100 * self.asked:g} % asked{missed}); parameters "
            f"{params:,} → {fewer_params:,}, MACs {macs:,} → {fewer_macs:,}"
        )


@final
@method("latency-aware")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LatencyAware(Method[LatencyPlan]):
    """Keeps the units that are worth most within a share of the original's measured time.

    The criterion ranks the units of each group and says which groups and counts are considered
    (its only, skip, least and multiple_of; not its keep and scope). How many each group keeps is
    decided by what these counts are worth and what they cost on the runtime: each layer is
    timed by the widths on both its sides. The pruned file is then timed as a whole against the
    original's, and the budget of the sum corrected until the file keeps to it; where none does,
    the fastest is taken and the summary says so.
    """

    family: ClassVar[str] = "prune"
    plan_type: ClassVar[type] = LatencyPlan

    latency: float = Field(default=0.6, gt=0, lt=1)
    """The share of the original's time that may be used."""
    batch: int = Field(default=1, ge=1)
    """Samples in one inference whose time counts."""
    criterion: Criterion = Taylor()
    """How units are ranked within their group, as 'name: {options}'."""
    worth: Literal["loss", "score"] = "loss"
    """What a count is worth: the loss measured when the group keeps so many (needs calibration
    data with targets), or the sum of the scores, relative to the group's mean."""
    cost: Literal["table", "bilinear"] = "table"
    """table: each layer timed by its widths; bilinear: ECC's function of adjacent widths, fitted
    to whole files of random widths, which takes minutes and knows no staircase."""
    attempts: int = Field(default=6, ge=1)
    """Files to time at most until one keeps to the budget and uses it up."""

    def plan(self, subject: Subject, bench: Workbench) -> LatencyPlan:
        """Decides which units stay.

        Raises:
            StructureError: if the network cannot be read, or nothing in it can be removed.
            DataError: if worth is loss and there is no calibration data.
            MeasureError: if the runtime cannot be used.
        """
        graph = trace(subject.model, subject.example)
        groups, skips = self.criterion.considered(graph)
        if not groups:
            raise StructureError(
                "prune latency-aware finds no group to remove units from: see why with "
                "'tersenet inspect'."
            )
        scores = self.criterion.score(subject, groups)
        liked, stairs = self.criterion.liked(subject, graph, groups, bench)
        options = {name: tuple(sorted(counts)) for name, counts in liked.items()}
        worth = self._worth(subject, graph, scores, options, bench)
        costs = self._costs(subject, graph, options, bench)
        trials = self._search(subject, graph, scores, options, worth, costs, bench)
        counts, reached = trials[-1].counts, trials[-1].share
        keep = {name: best_units(scores[name], count) for name, count in counts.items()}
        params, macs = graph.costs(keep)
        return LatencyPlan(
            criterion=self.criterion.name,
            keep=keep,
            sizes={group.name: group.size for group in groups},
            asked=self.latency,
            reached=reached,
            source="measured" if _ships(subject) else "estimated",
            batch=self.batch,
            tried=tuple((one.estimate, one.share) for one in trials),
            params=(graph.params, params),
            macs=(sum(layer.macs for layer in graph.layers), macs),
            staircases=stairs,
            skips=tuple(skips),
        )

    def apply(
        self, model: nn.Module, plan: LatencyPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Removes all other units, in place."""
        del bench
        return smaller_network(model, trace(model, subject.example), plan.keep)

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Repeats the slices."""
        del example
        return replay(model, edits)

    def _worth(
        self,
        subject: Subject,
        graph: Graph,
        scores: Mapping[str, Tensor],
        options: Mapping[str, Sequence[int]],
        bench: Workbench,
    ) -> Mapping[str, np.ndarray]:
        if self.worth == "score":
            return score_gains(scores, options, comparable=self.criterion.comparable)
        if not subject.calibration:
            raise DataError(
                "prune latency-aware has no calibration data to measure losses on: give some, or "
                "set worth: score."
            )
        groups = [graph.by_name[name] for name in options]
        data = subject.calibration[:_BATCHES]
        return loss_gains(subject, groups, scores, options, data, bench)

    def _costs(
        self,
        subject: Subject,
        graph: Graph,
        options: Mapping[str, Sequence[int]],
        bench: Workbench,
    ) -> Costs:
        if self.cost == "bilinear":
            return latency_model(subject, graph, options, batch=self.batch, bench=bench)
        return measure_costs(graph, options, subject.deployment, batch=self.batch, bench=bench)

    def _search(
        self,
        subject: Subject,
        graph: Graph,
        scores: Mapping[str, Tensor],
        options: Mapping[str, Sequence[int]],
        worth: Mapping[str, np.ndarray],
        costs: Costs,
        bench: Workbench,
    ) -> list[Trial]:
        whole = costs.ms({name: graph.by_name[name].size for name in options})
        with tempfile.TemporaryDirectory() as folder:
            timer = FileTimer(
                subject=subject, graph=graph, batch=self.batch, folder=Path(folder), bench=bench
            )

            def choose(budget: float) -> Counts:
                return widths_within(costs, options, worth, budget_ms=budget * whole)

            def estimate(counts: Counts) -> float:
                return costs.ms(counts) / whole

            def share(counts: Counts) -> float:
                bench.tick("timing the pruned file", 0, 1)
                kept = {name: best_units(scores[name], n) for name, n in counts.items()}
                return timer.share(kept)

            return fit_to_time(
                choose,
                estimate,
                share if _ships(subject) else estimate,
                asked=self.latency,
                attempts=self.attempts,
            )


def widths_within(
    costs: Costs,
    options: Mapping[str, Sequence[int]],
    worth: Mapping[str, np.ndarray],
    *,
    budget_ms: float,
) -> dict[str, int]:
    """Returns the counts that are worth most within a budget, or the cheapest where none fit.

    Exact where each layer lies between two groups at most. Else the costs are taken apart at the
    present counts, first the largest, and taken anew at what was found until that stays.

    Args:
        costs: the time as a function of the counts.
        options: the counts each group may keep, rising.
        worth: what each of these is worth, in one unit for all groups.
        budget_ms: by `costs`.
    """
    gains = [Factor((name,), np.zeros(len(one)), one) for name, one in worth.items()]
    sizes = {name: len(counts) for name, counts in options.items()}
    present = {name: counts[-1] for name, counts in options.items()}
    best, joint = {name: counts[0] for name, counts in options.items()}, True
    most = -float("inf")
    for _ in range(_ROUNDS):
        factors = costs.factors(options, present, joint=joint)
        try:
            picks = solve(sizes, [*factors, *gains], budget=budget_ms)
        except TooCoupledError:
            joint = False
            continue
        picks = dict.fromkeys(sizes, 0) if picks is None else picks
        found = {name: options[name][i] for name, i in picks.items()}
        value = total(gains, picks)[1]
        if costs.ms(found) <= budget_ms and value > most:
            best, most = found, value
        if found == present:
            break
        present = found
    return best


def _ships(subject: Subject) -> bool:
    """Whether the file of this step is of the precision that will ship."""
    return subject.deployment.precision == "fp32"
