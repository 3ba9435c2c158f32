"""Methods by family and name: what a recipe's keys mean.

A method registers itself where it is defined; its family's package is imported when a recipe
first names the family, so `tersenet --help` needs no PyTorch.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

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

_METHODS: Final[dict[str, dict[str, type[Method]]]] = {family: {} for family in FAMILIES}

C = TypeVar("C", bound=type[Method])


def method(name: str) -> Callable[[C], C]:
    """Registers a method class under `name` in its family."""

    def register(cls: C) -> C:
        cls.name = name
        _METHODS.setdefault(cls.family, {})[name] = cls
        return cls

    return register


def methods(family: str) -> Mapping[str, type[Method]]:
    """Returns the methods of one family by name, importing its package."""
    if family in FAMILIES:
        importlib.import_module(FAMILIES[family])
    return _METHODS.get(family, {})
