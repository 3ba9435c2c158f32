"""Memory asked for beforehand: a step that cannot fit is refused in a sentence, not killed.

Linux promises memory it may not have and kills whoever uses too much of it, without a word to
the one killed. So what needs much says how much, as an upper bound of its peak, before it
begins.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from tersenet.core.host.system import limit_of_address_space
from tersenet.errors import ResourceError

__all__ = ["available_bytes", "in_words", "require_memory"]

_ROOT: Final = Path("/")
_SMALL: Final = 64 * 2**20
"""Bytes for which nobody is asked: looking takes longer than such a matrix."""


def require_memory(needed: float, *, what: str, instead: str) -> None:
    """Checks that what comes next fits.

    Args:
        needed: bytes, at most, at its peak.
        what: is about to be done: "GPTQ of conv1".
        instead: what a person can do where it does not fit: "lower samples".

    Raises:
        ResourceError: if it does not.
    """
    if needed < _SMALL:
        return
    free = available_bytes()
    if needed > free:
        raise ResourceError(
            f"{what} takes up to {in_words(needed)} of memory and {in_words(free)} are available "
            f"here: {instead}, or run it where there is more."
        )


def available_bytes(root: Path = _ROOT) -> int:
    """Returns what this process may still take without another's being swapped out or killed.

    The least of what the system has, what its control groups allow and its own limit of address
    space.

    Args:
        root: of the file system, where /proc and /sys/fs/cgroup are.
    """
    found = [_of_system(root), *_of_groups(root), *limit_of_address_space()]
    return max(0, min(found))


def in_words(count: float) -> str:
    """Returns bytes as a person reads them."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _of_system(root: Path) -> int:
    with contextlib.suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return psutil.virtual_memory().available


def _of_groups(root: Path) -> Iterator[int]:
    """What each control group over this process leaves, of either version."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
            if kinds:
                if "memory" not in kinds.split(","):
                    continue
                top /= "memory"
                names = (
                    "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
                )  # fmt: skip
            group = top / path.lstrip("/")
            # Inside a container the path may be the host's: then its own group is the top.
            for place in (group, *group.parents):
                yield from _of_group(place, *names)
                if place == top:
                    break


def _of_group(group: Path, limit: str, used: str, cache: str) -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        most, taken = (int((group / name).read_text()) for name in (limit, used))
        # The cache of files counts as used, and is dropped when something else needs it.
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        yield most - taken + int(stat.get(cache, 0))
