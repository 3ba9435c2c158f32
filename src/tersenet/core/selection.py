"""Which of a network's layers or groups a person means: one dialect for every family.

A pattern is a glob (`stage1.*`), or after `re:` a regular expression, and matches whole names. What
may be named has one or several names: a group answers to its own and to those of its layers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, TypeAlias, TypeVar

from tersenet.core.listed import listed
from tersenet.errors import StructureError

__all__ = ["Names", "check_patterns", "first_match", "matches", "why_not"]

T = TypeVar("T")
Names: TypeAlias = Sequence[str]
"""All that one thing is called."""

_EXPRESSION: Final = "re:"


def matches(pattern: str, *names: str) -> bool:
    """Whether a pattern matches all of one of the names.

    Raises:
        StructureError: if it is no regular expression and says it is.
    """
    if not pattern.startswith(_EXPRESSION):
        return any(fnmatchcase(name, pattern) for name in names)
    try:
        expression = re.compile(pattern.removeprefix(_EXPRESSION))
    except re.error as error:
        raise StructureError(
            f"'{pattern}' is no regular expression ({error}): correct it, or write a glob."
        ) from error
    return any(expression.fullmatch(name) for name in names)


def first_match(patterns: Iterable[tuple[str, T]], *names: str) -> T | None:
    """Returns what belongs to the first pattern that matches; None if none does."""
    return next((value for pattern, value in patterns if matches(pattern, *names)), None)


def why_not(only: Iterable[str], skip: Iterable[str], *names: str) -> str | None:
    """Returns why something is not considered; None if it is. An empty `only` wants all."""
    only = tuple(only)
    if only and not any(matches(pattern, *names) for pattern in only):
        return "not among only"
    return "in skip" if any(matches(pattern, *names) for pattern in skip) else None


def check_patterns(
    owner: str,
    options: Mapping[str, Iterable[str]],
    what: str,
    known: Iterable[str | Names],
    *,
    unlisted: Iterable[str | Names] = (),
) -> None:
    """Complains about a pattern that matches nothing.

    Args:
        owner: whose options they are, as `prune l1`.
        options: patterns by option.
        what: is matched, a plural.
        known: names of all of them; of several names for one, the first is listed.
        unlisted: those of others that may be named, and are not worth a list.

    Raises:
        StructureError: naming the pattern.
    """
    every = [(names,) if isinstance(names, str) else tuple(names) for names in known]
    others = [(names,) if isinstance(names, str) else tuple(names) for names in unlisted]
    for option, patterns in options.items():
        for pattern in patterns:
            if not any(matches(pattern, *names) for names in (*every, *others)):
                raise StructureError(
                    f"'{pattern}' in {option} of {owner} matches none of the {what}: "
                    f"{listed(what, (names[0] for names in every))}; 'tersenet inspect' shows all."
                )
