"""Names in a sentence: some of them, how many more there are, or that there are none."""

from collections.abc import Iterable

__all__ = ["listed"]


def listed(what: str, names: Iterable[str], *, most: int = 6) -> str:
    """Returns "there are WHAT a, b and 4 more", or "there are no WHAT"; WHAT is a plural."""
    every = list(names)
    if not every:
        return f"there are no {what}"
    more = [f"{len(every) - most} more"] if len(every) > most else []
    told = [f"'{name}'" for name in every[:most]]
    return f"there are {what} {', '.join(told)}{f' and {more[0]}' if more else ''}"
