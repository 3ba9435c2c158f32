"""From the counts that a criterion wants to counts that groups may keep."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field
from torch import Tensor

from tersenet.graph import ChannelGroup, Graph
from tersenet.prune.counts import Cut, fit_counts, relative_scores, weighed_counts
from tersenet.timing.staircase import Staircase

__all__ = ["MultipleOf", "allowed_counts", "round_counts"]

MultipleOf: TypeAlias = Annotated[int, Field(ge=1)] | Literal["auto"] | None
"""What kept counts are multiples of; auto: of nothing, but counts that the runtime likes."""


def allowed_counts(
    multiple_of: MultipleOf,
    groups: Sequence[ChannelGroup],
    measured: Mapping[str, Staircase],
    *,
    least: int,
) -> dict[str, list[int]]:
    """Returns the counts each group may keep: all it has, liked ones, or multiples."""
    step = multiple_of if isinstance(multiple_of, int) else 1
    allowed = {}
    for group in groups:
        multiples = (*range(step, group.size, step), group.size)
        counts = measured[group.name].liked if measured else multiples
        allowed[group.name] = [count for count in counts if count >= min(least, group.size)]
    return allowed


def round_counts(
    wanted: Mapping[str, int],
    allowed: Mapping[str, Sequence[int]],
    *,
    graph: Graph,
    measured: Mapping[str, Staircase],
    scores: Mapping[str, Tensor],
    comparable: bool,
) -> dict[str, int]:
    """Returns allowed counts near the wanted ones.

    Where costs were measured, groups go down where that saves most for what it loses.
    """
    if not measured:
        return fit_counts(wanted, allowed)
    relative = relative_scores(scores, comparable=comparable)
    cuts = [
        _cut(
            graph.by_name[name], graph, wanted[name], allowed[name], measured[name], relative[name]
        )
        for name in wanted
    ]
    return weighed_counts(cuts)


def _cut(
    group: ChannelGroup,
    graph: Graph,
    wanted: int,
    allowed: Sequence[int],
    stairs: Staircase,
    scores: Tensor,
) -> Cut:
    """Returns what a group may be rounded to, and what going down saves and loses."""
    up = min(count for count in allowed if count >= wanted)
    down = max((count for count in allowed if count <= wanted), default=up)
    filters = {member.tensor for member in group.filters}
    macs = sum(site.layer.macs for site in graph.sites if site.tensor in filters)
    saved = stairs.cost(up) - stairs.cost(down)
    ranked = scores.sort(descending=True).values
    return Cut(
        name=group.name,
        wanted=wanted,
        down=down,
        up=up,
        saves=saved * stairs.ms * macs / stairs.macs,
        loses=float(ranked[down:up].sum()),
    )
