"""Removing channels by a criterion: which units stay, and the surgery."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, ClassVar, Final, final

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.entry import Part
from tersenet.core.registry import method
from tersenet.core.selection import first_match
from tersenet.core.types import Edit, Method, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph import ChannelGroup, Graph, provable, remove, replay, trace
from tersenet.prune.channels.greedy import greedy
from tersenet.prune.channels.groups import considered, names_of
from tersenet.prune.channels.plan import PrunePlan
from tersenet.prune.channels.rounding import (
    MultipleOf,
    allowed_counts,
    round_counts,
)
from tersenet.prune.counts import best_units, global_counts, layer_counts
from tersenet.prune.criterion import CRITERION, Criterion, Scope
from tersenet.timing.staircase import Staircase, measure_stairs

__all__ = ["Channels", "Counts"]

Counts = dict[str, Annotated[int, Field(ge=1)]]
"""Units that groups keep, by pattern."""
_KEEP: Final = 0.5
_KEEP_AT_LEAST: Final = 0.1  # where the criterion says how many units a group needs


@final
@method("channels")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Channels(Method[PrunePlan]):
    """Removes the units with the lowest scores by a criterion, physically.

    A unit is what can only go together: a filter, with its batch norm and the inputs that read
    it; in residual stages, the same channel of every layer added up.
    """

    family: ClassVar[str] = "prune"
    removes: ClassVar[bool] = True
    plan_type: ClassVar[type] = PrunePlan
    short: ClassVar[tuple[str, Part] | None] = ("criterion", CRITERION)

    criterion: Annotated[Criterion, CRITERION]
    """What judges the units, as 'name: {options}'."""
    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of units to keep, of the groups considered. Null keeps half; of a criterion that finds
    itself how many units a group needs (pca), a tenth of each group at least."""
    scope: Scope | None = None
    """Whether units compete across the network or within each group; null as suits the criterion:
    layer where its scores say little about other groups."""
    only: tuple[str, ...] = ()
    """Patterns of groups or sites to consider; empty considers all."""
    skip: tuple[str, ...] = ()
    """Patterns of groups or sites to leave alone."""
    multiple_of: MultipleOf = "auto"
    """What kept counts are multiples of; auto measures which counts the runtime likes, null
    takes any."""
    least: int = Field(default=1, ge=1)
    """Units that every group keeps at least."""
    at_a_time: int | None = Field(default=None, ge=1)
    """Units to remove, over the whole network, before the rest is scored anew; null removes all
    after one scoring. Needs multiple_of: null and scope: global."""
    counts: Counts = field(default_factory=dict, hash=False)
    """Units that groups keep, by pattern, the first that matches; groups that none matches stay
    whole. In place of keep, scope, multiple_of and least; papers publish such counts as
    signatures."""

    @model_validator(mode="after")
    def _check(self) -> "Channels":
        if self.at_a_time and self.counts:
            raise ValueError("counts say how many units stay, at_a_time asks for it: give one")
        if self.at_a_time and (self.multiple_of is not None or self._scope != "global"):
            raise ValueError("at_a_time needs multiple_of: null and scope: global")
        if self.criterion.finds_widths and self._scope != "layer":
            raise ValueError(f"{self.title} finds each group's own width: scope must be layer")
        option = self.criterion.option_in_nats
        if option and not self.at_a_time:
            raise ValueError(f"{option} needs at_a_time: set it to 1, or more to be faster")
        return self

    @property
    def title(self) -> str:
        """The criterion's name, by which the short form in a recipe goes, too."""
        return self.criterion.name

    @property
    def idle(self) -> Mapping[str, str]:
        """Counts take the place of what would decide them."""
        options = ("keep", "scope", "multiple_of", "least") if self.counts else ()
        return dict.fromkeys(options, "counts say how many units stay")

    def plan(self, subject: Subject, bench: Workbench) -> PrunePlan:
        """Decides which units stay, all at once or a few at a time.

        Raises:
            StructureError: if the network cannot be read, or a pattern matches nothing.
            DataError: if the criterion needs data that is missing.
            MeasureError: if the runtime to ask for liked counts cannot be used.
        """
        return self.plan_for(self.title, subject, bench)

    def plan_for(self, owner: str, subject: Subject, bench: Workbench) -> PrunePlan:
        """As `plan`, on behalf of the method `owner`, whom the plan and errors name."""
        graph = trace(subject.model, subject.example)
        groups, skips = considered(
            graph,
            self.criterion,
            owner=f"prune {owner}",
            only=self.only,
            skip=self.skip,
            counts=self.counts,
        )
        given = self._given(owner, groups) if self.counts else None
        keep, measured = self._kept(given, subject, graph, groups, bench)
        keep, unproved = provable(subject.model, graph, keep)
        params, macs = graph.costs(keep)
        sizes = {group.name: group.size for group in groups}
        return PrunePlan(
            method=owner,
            keep=keep,
            sizes=sizes,
            requested=(
                self._share if given is None else sum(given.values()) / max(1, sum(sizes.values()))
            ),
            params=(graph.params, params),
            macs=(sum(layer.macs for layer in graph.layers), macs),
            staircases=measured,
            skips=(*skips, *unproved),
        )

    def apply(
        self, model: nn.Module, plan: PrunePlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Removes all other units, in place."""
        del bench
        smaller = {name: kept for name, kept in plan.keep.items() if len(kept) < plan.sizes[name]}
        return remove(model, trace(subject.model, subject.example), smaller)

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Repeats the slices."""
        del example
        return replay(model, edits)

    @property
    def _share(self) -> float:
        usual = _KEEP_AT_LEAST if self.criterion.finds_widths else _KEEP
        return usual if self.keep is None else self.keep

    @property
    def _scope(self) -> Scope:
        return self.scope or self.criterion.usual_scope

    def _given(self, owner: str, groups: Sequence[ChannelGroup]) -> dict[str, int]:
        """Returns how many units each group keeps by `counts`."""
        given = {}
        for group in groups:
            count = first_match(self.counts.items(), *names_of(group)) or group.size
            if count > group.size:
                raise StructureError(
                    f"counts of prune {owner} keeps {count} units of "
                    f"'{group.name}', which has {group.size}: lower it."
                )
            given[group.name] = count
        return given

    def _kept(
        self,
        given: Mapping[str, int] | None,
        subject: Subject,
        graph: Graph,
        groups: Sequence[ChannelGroup],
        bench: Workbench,
    ) -> tuple[dict[str, tuple[int, ...]], tuple[Staircase, ...]]:
        """Returns the units that stay, and what was measured of the counts the runtime likes."""
        if self.at_a_time is not None:
            keep = greedy(
                self.criterion.score,
                subject,
                groups,
                keep=self._share,
                at_a_time=self.at_a_time,
                least=self.least,
                by_mean=not (self.criterion.nats or self.criterion.comparable),
                bench=bench,
            )
            return keep, ()
        scores, measured = self.criterion.score(subject, groups), {}
        counts = given
        if counts is None:
            if self.multiple_of == "auto":
                measured = measure_stairs(groups, graph.sites, subject.deployment, bench)
            counts = round_counts(
                self._wanted(subject, groups, scores),
                allowed_counts(self.multiple_of, groups, measured, least=self.least),
                graph=graph,
                measured=measured,
                scores=scores,
                comparable=self.criterion.comparable,
            )
        keep = {name: best_units(scores[name], count) for name, count in counts.items()}
        return keep, tuple(dict.fromkeys(measured.values()))

    def _wanted(
        self, subject: Subject, groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor]
    ) -> dict[str, int]:
        """Returns how many units each group should keep, whatever the runtime likes."""
        if self._scope == "global":
            return global_counts(
                scores, keep=self._share, least=self.least, comparable=self.criterion.comparable
            )
        sizes = {group.name: group.size for group in groups}
        counts = layer_counts(sizes, keep=self._share, least=self.least)
        needed = self.criterion.widths(subject, groups)
        return {name: max(count, needed.get(name, 0)) for name, count in counts.items()}
