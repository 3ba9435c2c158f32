"""Methods by family and name: what a recipe's keys mean.

A method registers itself where it is defined; its family's package is imported when a recipe
first names the family, so `tersenet --help` needs no PyTorch. Other packages give methods of any
family by entry points of the group `tersenet.methods`.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from tersenet.core.parts import Parts
from tersenet.core.types import Method

__all__ = ["FAMILIES", "method", "methods"]

FAMILIES: Final = {
    "prune": "tersenet.prune",
    "repair": "tersenet.repair",
    "replace": "tersenet.replace",
    "decompose": "tersenet.decompose",
    "distill": "tersenet.distill",
    "quantize": "tersenet.quantize",
    "encode": "tersenet.encode",
}
"""The recipe's outer keys and the packages whose import registers their methods."""

_METHODS: Final[dict[str, Parts[type[Method]]]] = {
    family: Parts(f"{family} method", package=package, plugins="tersenet.methods")
    for family, package in FAMILIES.items()
}

C = TypeVar("C", bound=type[Method])


def method(name: str) -> Callable[[C], C]:
    """Registers a method class under `name` in its family."""

    def register(cls: C) -> C:
        return _METHODS[cls.family].register(name)(cls)

    return register


def methods(family: str) -> Mapping[str, type[Method]]:
    """Returns the methods of one family by name, importing its package."""
    return _METHODS.get(family, {})
