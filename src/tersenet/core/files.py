"""Files that are whole or absent: written aside, synced, then renamed.

Also the only way tersenet reads and writes tensors: safetensors, which cannot execute code.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
from torch import Tensor, nn

from tersenet.errors import RunError, WeightsError

__all__ = [
    "CODED",
    "load_tensors",
    "load_weights",
    "make_folder",
    "read_kept",
    "save_tensors",
    "write_atomically",
    "write_json",
]

CODED: Final = "model.tnc"
"""The entropy-coded network, beside the others in a step's folder."""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path` so that a crash leaves the old file or the new, never half.

    Raises:
        RunError: if the folder is not writable or the disk is full.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".partial", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise RunError(
            f"cannot write {path} ({error.strerror or error}): free some space there or choose "
            "another folder."
        ) from error


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut, where a system opens folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they are not there.

    Raises:
        RunError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot make the folder {path} ({error.strerror}): free some space there or choose "
            "another with folder=…."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. Raises as `write_atomically`."""
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_kept(path: Path | None) -> dict[str, Any]:
    """Returns what a step kept by `write_json` to go on with; empty where that cannot be read.

    What is kept only spares work, such as measuring again, so a foreign file is no error.
    """
    if path is None or not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return kept if isinstance(kept, dict) else {}


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes named tensors as safetensors, atomically. Raises as `write_atomically`."""
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(plain, dict(metadata) if metadata else None))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a safetensors file: its tensors by name, and its metadata.

    Raises:
        WeightsError: if the file is missing, is a pickle, is truncated or is not safetensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: give the path of a safetensors file.")
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file starts with eight bytes of length, which may be any, then its JSON.
    if head[8:] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise WeightsError(
            f"{path} is a pickle, which can execute code when it is loaded: save the network's "
            "state_dict with safetensors.torch.save_file and give that file."
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"{path} is truncated or not safetensors ({error}): fetch or save it again."
        ) from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a safetensors state dict into `model`, all of it or nothing.

    Raises:
        WeightsError: as `load_tensors`, and if names or shapes are another network's.
    """
    tensors, _ = load_tensors(path)
    own = model.state_dict()
    missing = sorted(own.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name} is {list(tensors[name].shape)}, not {list(own[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    if missing or unknown or shapes:
        parts = [
            f"{len(found)} {kind} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
            for kind, found in (
                ("missing", missing),
                ("unknown", unknown),
                ("of other shape", shapes),
            )
            if found
        ]
        raise WeightsError(
            f"{path} holds the weights of another architecture: {'; '.join(parts)}. Give the "
            "model section the options that these weights were trained with."
        )
    own.update(tensors)  # some modules look for their version beside the tensors
    model.load_state_dict(own)
