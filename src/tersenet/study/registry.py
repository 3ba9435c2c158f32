"""Studies by name: `tersenet study NAME` runs one, and its options are the function's."""

from collections.abc import Callable
from typing import Final

from tersenet.core.findings import Findings
from tersenet.core.parts import Parts

__all__ = ["STUDIES"]

STUDIES: Final[Parts[Callable[..., Findings]]] = Parts(
    "study", package="tersenet.study", plugins="tersenet.studies"
)
"""A study is called with a `folder` for its points and a `tick` to tell its progress. One that is
of a person's network begins with `model` and `task`: the command line reads both from a recipe.
"""
