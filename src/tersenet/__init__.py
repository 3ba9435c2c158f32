"""tersenet: compress a trained PyTorch network to a budget, with measured proof.

Names are imported when they are first used, so that neither `import tersenet` nor
`tersenet --help` pays for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tersenet.api import compress, resume
    from tersenet.core.types import Budget, Deployment, Outcome, StepRecord, Subject
    from tersenet.data import Images
    from tersenet.errors import TersenetError
    from tersenet.recipe import Recipe, read_recipe
    from tersenet.run import load, read_run
    from tersenet.train import Classification

__all__ = [
    "Budget",
    "Classification",
    "Deployment",
    "Images",
    "Outcome",
    "Recipe",
    "StepRecord",
    "Subject",
    "TersenetError",
    "compress",
    "load",
    "read_recipe",
    "read_run",
    "resume",
]

_HOMES: Final = {
    "Budget": "tersenet.core.types",
    "Classification": "tersenet.train",
    "Deployment": "tersenet.core.types",
    "Images": "tersenet.data",
    "Outcome": "tersenet.core.types",
    "Recipe": "tersenet.recipe",
    "StepRecord": "tersenet.core.types",
    "Subject": "tersenet.core.types",
    "TersenetError": "tersenet.errors",
    "compress": "tersenet.api",
    "load": "tersenet.run",
    "read_recipe": "tersenet.recipe",
    "read_run": "tersenet.run",
    "resume": "tersenet.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tersenet' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
