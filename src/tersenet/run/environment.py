"""What the numbers of a run depend on besides its recipe."""

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import torch

from tersenet.measure import describe_device
from tersenet.recipe import Recipe
from tersenet.run.record import Header

__all__ = ["header_of", "versions"]

LIBRARIES: Final = ("tersenet", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def header_of(recipe: Recipe, *, command: str) -> Header:
    """Returns how a run of `recipe` begins, now and here."""
    return Header(
        name=recipe.name,
        command=command,
        recipe=recipe.resolved(),
        source=recipe.source,
        seed=recipe.seed,
        device=describe_device(),
        threads=torch.get_num_threads(),
        versions=versions(),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
