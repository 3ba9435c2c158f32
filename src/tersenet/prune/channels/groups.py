"""Which groups of a network units may go from, and why not from the others."""

from collections.abc import Iterable, Sequence

from tersenet.core.selection import check_patterns, why_not
from tersenet.core.types import Skip
from tersenet.graph import ChannelGroup, Graph
from tersenet.prune.criterion import Criterion

__all__ = ["considered", "names_of"]


def considered(
    graph: Graph,
    criterion: Criterion,
    *,
    owner: str,
    only: Sequence[str],
    skip: Sequence[str],
    counts: Iterable[str] = (),
) -> tuple[list[ChannelGroup], list[Skip]]:
    """Returns the groups that units may go from, and the others with the reason.

    Args:
        graph: the network's.
        criterion: that has to judge the groups.
        owner: whose options the patterns are, as `prune l1`.
        only: patterns of groups to consider; empty considers all.
        skip: patterns of groups to leave alone.
        counts: patterns of groups that counts are given for.

    Raises:
        StructureError: if a pattern matches nothing.
    """
    check_patterns(
        owner,
        {"only": only, "skip": skip, "counts": counts},
        "groups",
        map(names_of, graph.groups),
        unlisted=map(names_of, graph.frozen),
    )
    groups, skips = [], [Skip(group.name, group.reason or "") for group in graph.frozen]
    for group in graph.groups:
        reason = (
            why_not(only, skip, *names_of(group)) or _why_fixed(group) or criterion.why_not(group)
        )
        if reason is None:
            groups.append(group)
        else:
            skips.append(Skip(group.name, reason))
    return groups, skips


def names_of(group: ChannelGroup) -> tuple[str, ...]:
    """Returns all that a group is called: its own name and those of its layers."""
    return (group.name, *group.sources)


def _why_fixed(group: ChannelGroup) -> str | None:
    if not group.filters:
        return "no convolution or linear layer produces it"
    return "has a single unit" if group.size == 1 else None
