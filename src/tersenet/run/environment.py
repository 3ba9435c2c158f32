"""What the numbers of a run depend on besides its recipe."""

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import torch

from tersenet.measure import describe_device
from tersenet.recipe import Recipe
from tersenet.run.origin import Origin
from tersenet.run.record import Header

__all__ = ["header_of", "moves_since", "versions"]

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


def header_of(recipe: Recipe, *, command: str, origin: Origin) -> Header:
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
        origin=origin,
        own_network=recipe.model is None,
    )


def moves_since(header: Header) -> str:
    """Returns what is another machine now than when the run began; empty where nothing is.

    What was planned from timings there is kept, and figures before and after are of two machines.
    """
    device, found = describe_device(), versions()
    changed = [
        f"{was} then, {now} now"
        for was, now in (
            (header.device.cpu, device.cpu),
            (" ".join(header.device.isa), " ".join(device.isa)),
        )
        if was != now
    ]
    changed += [
        f"{name} {was} then, {found.get(name)} now"
        for name, was in header.versions.items()
        if found.get(name) != was
    ]
    return "; ".join(changed)
