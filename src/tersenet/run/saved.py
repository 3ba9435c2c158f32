"""Saved models: tensors as safetensors, and a manifest of the edits that made them.

Loading builds the original class, replays the edits, then loads the tensors: exact after
structural pruning and quantisation, and nothing that is loaded can execute.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from pydantic import TypeAdapter
from torch import nn

from tersenet.core.files import CODED, load_weights, save_tensors, write_atomically, write_json
from tersenet.core.manifest import brief
from tersenet.core.registry import methods
from tersenet.core.types import Edit, Method
from tersenet.errors import RunError
from tersenet.models import MODELS

__all__ = ["History", "load", "save"]

_EDITS: Final = TypeAdapter(tuple[Edit, ...])
_FORMAT: Final = "tersenet-model"
_VERSION: Final = 1


@final
@dataclass(frozen=True)
class History:
    """How a model came about."""

    model: Mapping[str, Any]
    """The recipe's model section; {'class': …} for a network that the caller brought."""
    example: tuple[tuple[int, ...], ...]
    """Shapes of one batch of inputs."""
    steps: tuple[tuple[Method[Any], Sequence[Edit]], ...] = ()
    dtypes: tuple[str, ...] = ()
    """Types of the inputs, such as 'int64'; empty means floats."""

    def then(self, method: Method[Any], edits: Sequence[Edit]) -> "History":
        """Returns the history one step longer."""
        return dataclasses.replace(self, steps=(*self.steps, (method, edits)))


def save(
    folder: Path, model: nn.Module, history: History, facts: Mapping[str, Any]
) -> dict[str, Path]:
    """Writes model.safetensors and manifest.json; returns their paths by kind.

    Where a step coded the network, its file is given the manifest in brief: it is whole alone.
    """
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    save_tensors(weights, model.state_dict())
    steps = [
        {
            "family": method.family,
            "name": method.name,
            "settings": TypeAdapter(type(method)).dump_python(method, mode="json"),
            "edits": _EDITS.dump_python(tuple(edits), mode="json"),
        }
        for method, edits in history.steps
    ]
    value = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": dict(history.model),
        "example": [list(shape) for shape in history.example],
        "dtypes": list(history.dtypes),
        "steps": steps,
        **facts,
    }
    write_json(manifest, value)
    coded = folder / CODED
    if not coded.exists():
        return {"safetensors": weights, "manifest": manifest}
    from tersenet.codec import with_manifest  # loads Numba, which few steps need

    write_atomically(coded, with_manifest(coded.read_bytes(), brief(value)))
    return {"safetensors": weights, "manifest": manifest, "coded": coded}


def load(folder: Path, *, model: nn.Module | None = None) -> nn.Module:
    """Returns a saved model, in eval mode.

    `model` is a fresh network of the original class, needed when it is not one of ours.

    Raises:
        RunError: if the manifest is missing, damaged, or of a network that must be given.
        WeightsError: as `load_weights`.
    """
    manifest = _read(folder / "manifest.json")
    model = _original(manifest["model"], folder) if model is None else model
    shapes = manifest["example"]
    dtypes = manifest.get("dtypes") or ["float32"] * len(shapes)
    example = tuple(
        torch.zeros(shape, dtype=getattr(torch, dtype))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    )
    model = model.eval()
    for step in manifest["steps"]:
        cls = methods(step["family"]).get(step["name"])
        if cls is None:
            raise RunError(
                f"{folder / 'manifest.json'} was made with {step['family']}.{step['name']}, which "
                "this tersenet does not have: load it with the one that wrote it."
            )
        method: Method[Any] = TypeAdapter(cls).validate_python(step["settings"])
        model = method.replay(model, _EDITS.validate_python(step["edits"]), example)
    load_weights(model, folder / "model.safetensors")
    return model.eval()


def _original(section: Mapping[str, Any], folder: Path) -> nn.Module:
    for name, options in section.items():
        if name in MODELS:
            return MODELS[name](**options)
    raise RunError(
        f"{folder / 'manifest.json'} is of the network {section.get('class')!r}, which is not "
        "tersenet's own: give a fresh one, load(folder, model=…)."
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RunError(f"{path} does not exist: give the folder of a step or of a finished run.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): save the model again.") from error
    found = (manifest.get("format"), manifest.get("version"))
    if found != (_FORMAT, _VERSION):
        raise RunError(
            f"{path} is {found}, not {(_FORMAT, _VERSION)}: use the tersenet that wrote it."
        )
    return manifest
