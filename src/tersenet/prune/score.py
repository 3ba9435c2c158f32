"""Channel pruning by a score per unit: what is common to every criterion."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import field
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.listed import listed
from tersenet.core.types import Edit, Method, Skip, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph import ChannelGroup, Graph, provable, remove, replay, trace
from tersenet.prune.counts import (
    Cut,
    best_units,
    fit_counts,
    global_counts,
    layer_counts,
    relative_scores,
    weighed_counts,
)
from tersenet.prune.greedy import greedy
from tersenet.prune.plan import PrunePlan
from tersenet.timing.staircase import Staircase, measure_stairs

__all__ = ["ChannelScore"]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class ChannelScore(Method[PrunePlan]):
    """Removes the units with the lowest scores, physically.

    A unit is what can only go together: a filter, with its batch norm and the inputs that read
    it; in residual stages, the same channel of every layer added up.
    """

    family: ClassVar[str] = "prune"
    removes: ClassVar[bool] = True
    plan_type: ClassVar[type] = PrunePlan
    comparable: ClassVar[bool] = False
    """Whether scores of different groups compare as they are, not by their group's mean."""
    nats: ClassVar[bool] = False
    """Whether scores are nats, which greedy removal compares as they are."""
    trains: ClassVar[bool] = False
    """Whether planning trains the network before it is scored: a step, no criterion of another."""

    keep: float = Field(default=0.5, gt=0, le=1)
    """Share of units to keep, of the groups considered."""
    scope: Literal["global", "layer"] = "global"
    """Whether units compete across the network or within each group."""
    only: tuple[str, ...] = ()
    """Globs of groups or sites to consider; empty considers all."""
    skip: tuple[str, ...] = ()
    """Globs of groups or sites to leave alone."""
    multiple_of: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    """What kept counts are multiples of; auto measures which counts the runtime likes, null
    takes any."""
    least: int = Field(default=1, ge=1)
    """Units that every group keeps at least."""
    at_a_time: int | None = Field(default=None, ge=1)
    """Units to remove, over the whole network, before the rest is scored anew; null removes all
    after one scoring. Needs multiple_of: null and scope: global."""
    counts: dict[str, Annotated[int, Field(ge=1)]] = field(default_factory=dict, hash=False)
    """Units that groups keep, by glob, the first that matches; groups that none matches stay whole.
    In place of keep, scope, multiple_of and least; papers publish such counts as signatures."""

    @model_validator(mode="after")
    def _check_greedy(self) -> "ChannelScore":
        if self.at_a_time and self.counts:
            raise ValueError("counts say how many units stay, at_a_time asks for it: give one")
        if self.at_a_time and (self.multiple_of is not None or self.scope != "global"):
            raise ValueError("at_a_time needs multiple_of: null and scope: global")
        return self

    @property
    def idle(self) -> Mapping[str, str]:
        """Counts take the place of what would decide them."""
        options = ("keep", "scope", "multiple_of", "least") if self.counts else ()
        return dict.fromkeys(options, "counts say how many units stay")

    @abc.abstractmethod
    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns one score per unit for each group by name; the lowest go first."""

    def plan(self, subject: Subject, bench: Workbench) -> PrunePlan:
        """Decides which units stay, all at once or a few at a time.

        Raises:
            StructureError: if the network cannot be read, or a glob matches nothing.
            MeasureError: if the runtime to ask for liked counts cannot be used.
        """
        graph = trace(subject.model, subject.example)
        groups, skips = self.considered(graph)
        keep, measured = self._kept(subject, graph, groups, bench)
        keep, unproved = provable(subject.model, graph, keep)
        params, macs = graph.costs(keep)
        return PrunePlan(
            method=self.name,
            keep=keep,
            sizes={group.name: group.size for group in groups},
            requested=self._requested(groups),
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

    def _kept(
        self,
        subject: Subject,
        graph: Graph,
        groups: Sequence[ChannelGroup],
        bench: Workbench,
    ) -> tuple[dict[str, tuple[int, ...]], tuple[Staircase, ...]]:
        """Returns the units that stay, and what was measured of the counts the runtime likes."""
        if self.at_a_time is not None:
            keep = greedy(
                self.score,
                subject,
                groups,
                keep=self.keep,
                at_a_time=self.at_a_time,
                least=self.least,
                by_mean=not (self.nats or self.comparable),
                bench=bench,
            )
            return keep, ()
        scores = self.score(subject, groups)
        if self.counts:
            given = self._given(groups)
            return {name: best_units(scores[name], count) for name, count in given.items()}, ()
        wanted = self._wanted(subject, groups, scores)
        measured = self._staircases(subject, graph, groups, bench)
        liked = self._counts(groups, measured)
        if measured:
            relative = relative_scores(scores, comparable=self.comparable)
            counts = weighed_counts(
                [
                    _cut(group, graph, wanted[group.name], liked[group.name], measured, relative)
                    for group in groups
                ]
            )
        else:
            counts = fit_counts(wanted, liked)
        keep = {name: best_units(scores[name], count) for name, count in counts.items()}
        return keep, tuple(dict.fromkeys(measured.values()))

    def _given(self, groups: Sequence[ChannelGroup]) -> dict[str, int]:
        """Returns how many units each group keeps by `counts`."""
        given = {}
        for group in groups:
            found = (count for glob, count in self.counts.items() if _matches(group, glob))
            given[group.name] = next(found, group.size)
            if given[group.name] > group.size:
                raise StructureError(
                    f"counts of prune {self.name} keeps {given[group.name]} units of "
                    f"'{group.name}', which has {group.size}: lower it."
                )
        return given

    def _requested(self, groups: Sequence[ChannelGroup]) -> float:
        if not self.counts:
            return self.keep
        return sum(self._given(groups).values()) / max(1, sum(group.size for group in groups))

    def _wanted(
        self, subject: Subject, groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor]
    ) -> dict[str, int]:
        """Returns how many units each group should keep, whatever the runtime likes."""
        if self.scope == "layer":
            sizes = {group.name: group.size for group in groups}
            return layer_counts(sizes, keep=self.keep, least=self.least)
        return global_counts(scores, keep=self.keep, least=self.least, comparable=self.comparable)

    def considered(self, graph: Graph) -> tuple[list[ChannelGroup], list[Skip]]:
        """Returns the groups that units may go from, and why not from the others.

        Raises:
            StructureError: if a glob matches nothing.
        """
        every = [*graph.groups, *graph.frozen]
        for option in ("only", "skip", "counts"):
            for glob in getattr(self, option):
                if not any(_matches(group, glob) for group in every):
                    names = [group.name for group in graph.groups]
                    raise StructureError(
                        f"'{glob}' in {option} of prune {self.name} matches no group and no site: "
                        f"{listed('groups', names)}; 'tersenet inspect' shows all."
                    )
        groups, skips = [], [Skip(one.name, one.reason or "") for one in graph.frozen]
        for group in graph.groups:
            reason = self._why_not(group)
            if reason is None:
                groups.append(group)
            else:
                skips.append(Skip(group.name, reason))
        return groups, skips

    def _why_not(self, group: ChannelGroup) -> str | None:
        if self.only and not any(_matches(group, glob) for glob in self.only):
            return "not among only"
        if any(_matches(group, glob) for glob in self.skip):
            return "in skip"
        if not group.filters:
            return "no convolution or linear layer produces it"
        return "has a single unit" if group.size == 1 else None

    def liked(
        self,
        subject: Subject,
        graph: Graph,
        groups: Sequence[ChannelGroup],
        bench: Workbench,
    ) -> tuple[Mapping[str, Sequence[int]], tuple[Staircase, ...]]:
        """Returns the counts each group may keep, and what was measured to find them."""
        measured = self._staircases(subject, graph, groups, bench)
        return self._counts(groups, measured), tuple(dict.fromkeys(measured.values()))

    def _staircases(
        self, subject: Subject, graph: Graph, groups: Sequence[ChannelGroup], bench: Workbench
    ) -> dict[str, Staircase]:
        """Returns what counts cost, by group; nothing where no runtime is to be asked."""
        if self.multiple_of != "auto":
            return {}
        return measure_stairs(groups, graph.sites, subject.deployment, bench)

    def _counts(
        self, groups: Sequence[ChannelGroup], measured: Mapping[str, Staircase]
    ) -> dict[str, list[int]]:
        """Returns the counts each group may keep."""
        step = self.multiple_of if isinstance(self.multiple_of, int) else 1
        return {
            group.name: [
                count
                for count in (
                    measured[group.name].liked
                    if measured
                    else (*range(step, group.size, step), group.size)
                )
                if count >= min(self.least, group.size)
            ]
            for group in groups
        }


def _cut(
    group: ChannelGroup,
    graph: Graph,
    wanted: int,
    liked: Sequence[int],
    measured: Mapping[str, Staircase],
    relative: Mapping[str, Tensor],
) -> Cut:
    """Returns what `group` may be rounded to, and what going down saves and loses."""
    stairs = measured[group.name]
    up = min(count for count in liked if count >= wanted)
    down = max((count for count in liked if count <= wanted), default=up)
    filters = {member.tensor for member in group.filters}
    macs = sum(site.layer.macs for site in graph.sites if site.tensor in filters)
    saved = stairs.cost(up) - stairs.cost(down)
    ranked = relative[group.name].sort(descending=True).values
    return Cut(
        name=group.name,
        wanted=wanted,
        down=down,
        up=up,
        saves=saved * stairs.ms * macs / stairs.macs,
        loses=float(ranked[down:up].sum()),
    )


def _matches(group: ChannelGroup, glob: str) -> bool:
    return any(fnmatchcase(name, glob) for name in (group.name, *group.sources))
