"""Pruning to a share of the original's measured time.

Which units stay is a knapsack: their worth within a budget of latency, with counts that the
runtime likes. Shen et al., "Structural Pruning via Latency-Saliency Knapsack" (HALP), 2022,
arXiv:2210.06659. Costs depend on the widths on both sides of each layer, as in Sun et al.,
"MDP", 2025, arXiv:2504.02168. Then the whole file is timed, and the budget corrected by it.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.types import Edit, Method, Subject, Workbench
from tersenet.errors import DataError, StructureError
from tersenet.graph import ChannelGroup, Graph, macs, parameters, trace
from tersenet.graph.blocks import Block, find_blocks, replay_removals
from tersenet.prune.channels.groups import considered
from tersenet.prune.channels.rounding import MultipleOf, allowed_counts
from tersenet.prune.counts import best_units
from tersenet.prune.criteria import Taylor
from tersenet.prune.criterion import CRITERION, Criterion
from tersenet.prune.latency.gains import block_gains, loss_gains, score_gains
from tersenet.prune.latency.plan import LatencyPlan
from tersenet.prune.smaller import smaller_network
from tersenet.timing.bilinear import latency_model
from tersenet.timing.files import FileTimer
from tersenet.timing.fit import Attempt, fit_to_time
from tersenet.timing.staircase import Staircase, decide_precision, measure_stairs
from tersenet.timing.width_choice import widths_within
from tersenet.timing.width_costs import Costs, measure_costs

__all__ = ["LatencyAware"]

Counts = Mapping[str, int]
"""How many units each group keeps."""

_BATCHES = 2  # of calibration data to measure losses on: some 40 networks are measured


@final
@method("latency-aware")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LatencyAware(Method[LatencyPlan]):
    """Keeps the units that are worth most within a share of the original's measured time.

    The criterion ranks the units of each group. How many each group keeps is decided by what the
    counts are worth and what they cost on the runtime: each layer is timed by the widths on both
    its sides. The pruned file is then timed as a whole against the original's, and the budget of
    the sum corrected until the file keeps to it; where none does, the fastest is taken and the
    summary says so.
    """

    family: ClassVar[str] = "prune"
    removes: ClassVar[bool] = True
    plan_type: ClassVar[type] = LatencyPlan

    latency: float = Field(default=0.6, gt=0, lt=1)
    """The share of the original's time that may be used."""
    batch: int = Field(default=1, ge=1)
    """Samples in one inference whose time counts."""
    criterion: Annotated[Criterion, CRITERION] = Taylor()
    """How units are ranked within their group, as 'name: {options}'."""
    worth: Literal["loss", "score"] = "loss"
    """What a count is worth: the loss measured when the group keeps so many (needs calibration
    data with targets), or the sum of the scores, relative to the group's mean."""
    cost: Literal["table", "bilinear"] = "table"
    """table: each layer timed by its widths; bilinear: ECC's function of adjacent widths, fitted
    to whole files of random widths, which takes minutes and knows no staircase."""
    blocks: bool = True
    """Whether residual blocks may also go whole; only by measured loss and from a table."""
    attempts: int = Field(default=6, ge=1)
    """Files to time at most until one keeps to the budget and uses it up."""

    only: tuple[str, ...] = ()
    """Patterns of groups or sites to consider; empty considers all."""
    skip: tuple[str, ...] = ()
    """Patterns of groups or sites to leave alone."""
    multiple_of: MultipleOf = "auto"
    """What kept counts are multiples of; auto measures which counts the runtime likes, null
    takes any."""
    least: int = Field(default=1, ge=1)
    """Units that every group keeps at least."""

    @model_validator(mode="after")
    def _check(self) -> "LatencyAware":
        option = self.criterion.option_in_nats
        if option:
            raise ValueError(f"{option} has no meaning where measured time says what work is worth")
        return self

    def plan(self, subject: Subject, bench: Workbench) -> LatencyPlan:
        """Decides which units stay.

        Raises:
            StructureError: if the network cannot be read, or nothing in it can be removed.
            DataError: if worth is loss and there is no calibration data.
            MeasureError: if the runtime cannot be used.
        """
        graph = trace(subject.model, subject.example)
        groups, skips = considered(
            graph, self.criterion, owner="prune latency-aware", only=self.only, skip=self.skip
        )
        if not groups:
            raise StructureError(
                "prune latency-aware finds no group to remove units from: see why with "
                "'tersenet inspect'."
            )
        decided = decide_precision(groups, graph.sites, subject.deployment, bench)
        subject = dataclasses.replace(subject, deployment=decided)
        scores = self.criterion.score(subject, groups)
        stairs: dict[str, Staircase] = {}
        if self.multiple_of == "auto":
            stairs = measure_stairs(groups, graph.sites, decided, bench)
        allowed = allowed_counts(self.multiple_of, groups, stairs, least=self.least)
        options = {name: tuple(sorted(counts)) for name, counts in allowed.items()}
        blocks = self._blocks(subject)
        worth = self._worth(subject, groups, blocks, scores, options, bench)
        options |= {block.name: (0, 1) for block in blocks}
        costs = self._costs(subject, graph, blocks, options, bench)
        trials = self._search(subject, graph, blocks, scores, worth, costs, options, bench)
        keep, gone = _chosen(trials[-1].choice, groups, blocks, scores)
        smaller, _ = smaller_network(copy.deepcopy(subject.model), graph, keep, gone)
        return LatencyPlan(
            criterion=self.criterion.name,
            keep=keep,
            sizes={group.name: group.size for group in groups},
            dropped=tuple(block.name for block in gone),
            asked=self.latency,
            reached=trials[-1].share,
            source="measured" if _ships(subject) else "estimated",
            batch=self.batch,
            tried=tuple((trial.estimate, trial.share) for trial in trials),
            params=(graph.params, parameters(smaller)[0]),
            macs=(sum(layer.macs for layer in graph.layers), macs(smaller, subject.example)),
            staircases=tuple(dict.fromkeys(stairs.values())),
            skips=tuple(skips),
        )

    def apply(
        self, model: nn.Module, plan: LatencyPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Removes all other units, and the blocks that go, in place."""
        del bench
        blocks = find_blocks(model, subject.example, tried=False).blocks if plan.dropped else ()
        gone = [block for block in blocks if block.name in plan.dropped]
        return smaller_network(model, trace(model, subject.example), plan.keep, gone)

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Repeats the slices, then the drops."""
        del example
        return replay_removals(model, edits)

    def _blocks(self, subject: Subject) -> list[Block]:
        """Returns the residual blocks that may go."""
        if not self.blocks or self.worth != "loss" or self.cost != "table":
            return []
        every = find_blocks(subject.model, subject.example).blocks
        return [block for block in every if block.kind == "residual" and block.filters]

    def _worth(
        self,
        subject: Subject,
        groups: Sequence[ChannelGroup],
        blocks: Sequence[Block],
        scores: Mapping[str, Tensor],
        options: Mapping[str, Sequence[int]],
        bench: Workbench,
    ) -> dict[str, np.ndarray]:
        if self.worth == "score":
            return score_gains(scores, options, comparable=self.criterion.comparable)
        if not subject.calibration:
            raise DataError(
                "prune latency-aware has no calibration data to measure losses on: give some, or "
                "set worth: score."
            )
        data = subject.calibration[:_BATCHES]
        return {
            **loss_gains(subject, groups, scores, options, data, bench),
            **block_gains(subject, blocks, data, bench),
        }

    def _costs(
        self,
        subject: Subject,
        graph: Graph,
        blocks: Sequence[Block],
        options: Mapping[str, Sequence[int]],
        bench: Workbench,
    ) -> Costs:
        if self.cost == "bilinear":
            return latency_model(subject, graph, options, batch=self.batch, bench=bench)
        return measure_costs(
            graph,
            options,
            subject.deployment,
            blocks={block.name: block.filters for block in blocks},
            batch=self.batch,
            bench=bench,
        )

    def _search(
        self,
        subject: Subject,
        graph: Graph,
        blocks: Sequence[Block],
        scores: Mapping[str, Tensor],
        worth: Mapping[str, np.ndarray],
        costs: Costs,
        options: Mapping[str, Sequence[int]],
        bench: Workbench,
    ) -> list[Attempt[Counts]]:
        whole = costs.ms({name: counts[-1] for name, counts in options.items()})
        groups = [graph.by_name[name] for name in scores]
        inside = _inside(groups, blocks)
        original = subject.original or subject.model
        timer = FileTimer(original, subject.example, subject.deployment, self.batch, bench)

        def choose(budget: float) -> Counts:
            return widths_within(costs, options, worth, budget_ms=budget * whole, inside=inside)

        def estimate(counts: Counts) -> float:
            return costs.ms(counts) / whole

        def share(counts: Counts) -> float:
            keep, gone = _chosen(counts, groups, blocks, scores)
            model, _ = smaller_network(copy.deepcopy(subject.model), graph, keep, gone)
            return timer.share(model)

        return fit_to_time(
            choose,
            share if _ships(subject) else estimate,
            estimate,
            asked=self.latency,
            attempts=self.attempts,
        )


def _inside(groups: Sequence[ChannelGroup], blocks: Sequence[Block]) -> dict[str, str]:
    """Returns the block that each group lies in, where all its filters do."""
    inside = {}
    for block in blocks:
        tensors = {member.tensor for own in block.filters for member in own.filters}
        for group in groups:
            if {member.tensor for member in group.filters} <= tensors:
                inside[group.name] = block.name
    return inside


def _chosen(
    counts: Counts,
    groups: Sequence[ChannelGroup],
    blocks: Sequence[Block],
    scores: Mapping[str, Tensor],
) -> tuple[dict[str, tuple[int, ...]], list[Block]]:
    """Returns the units to keep, all of those in blocks that go, and these blocks."""
    gone = [block for block in blocks if not counts[block.name]]
    whole = _inside(groups, gone)
    keep = {
        group.name: best_units(
            scores[group.name], group.size if group.name in whole else counts[group.name]
        )
        for group in groups
    }
    return keep, gone


def _ships(subject: Subject) -> bool:
    """Whether the file of this step is of the precision that will ship."""
    return subject.deployment.precision == "fp32"
