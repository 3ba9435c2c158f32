"""One shipped recipe in small, by a computed clock: `python smoke.py RECIPE.yaml FOLDER`.

Prints what it came to as JSON: by step, digests of what was decided and of what was written.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from clock import install
from safetensors.torch import load_file

from tersenet.api import compress_recipe
from tersenet.core.files import CODED
from tersenet.measure import describe_device

MOST = {
    "train_images": 512, "test_images": 200, "calibration": 128, "batch_size": 64, "epochs": 0.5,
    "samples": 128, "trials": 2, "steps": 20, "at_a_time": 200,
}  # fmt: skip
"""Options that make a recipe long, at whatever depth, and the most of each in small."""
UNWANTED = {"minutes", "precision"}
"""What would have the machine decide."""


LIMITED = ("train_images", "test_images", "calibration", "batch_size")
"""Of the data, where a recipe does not say."""


def small(value: Any) -> Any:
    """Returns a recipe, or a part of one, in small."""
    if isinstance(value, list):
        return [small(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: min(one, MOST[key]) if key in MOST and isinstance(one, int | float) else small(one)
        for key, one in value.items()
        if key not in UNWANTED
    }


def in_small(recipe: Path) -> dict[str, Any]:
    """Returns the smoke form of a recipe."""
    found = small(yaml.safe_load(recipe.read_text(encoding="utf-8")))
    found["weights"] = str((recipe.parent / found["weights"]).resolve())
    data = found["data"]["fashion-mnist"] or {}
    found["data"] = {"fashion-mnist": {**{k: MOST[k] for k in LIMITED}, **data}}
    found.pop("budget", None)
    found["threads"] = 1
    found["deployment"] = {"batches": [1], "iterations": 1, "seconds": 0.0}
    return found


def arithmetic() -> str:
    """Returns a digest of how this machine computes: a small training in PyTorch alone.

    Where two machines differ in it, weights differ in their last bits, and so does all that
    follows from them. One without 8-bit dot products is another: its weights get 7 bits.
    """
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 24, 3, padding=1), torch.nn.BatchNorm2d(24), torch.nn.ReLU(),
        torch.nn.Conv2d(24, 24, 3, stride=2, groups=1), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(24 * 13 * 13, 10),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        inputs, targets = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    matrix = torch.randn(96, 96, dtype=torch.float64)
    made = [*net.state_dict().values(), torch.linalg.eigvalsh(matrix @ matrix.T)]
    products = b"" if describe_device().has_int8_dot else b"of 16 bits"
    return _digest(b"".join([*(one.detach().numpy().tobytes() for one in made), products]))


def goldens(recipe: Path, folder: Path) -> dict[str, Any]:
    """Runs a recipe in small in `folder`, and returns what it came to."""
    folder.mkdir(parents=True)
    written = folder / "recipe.yaml"
    written.write_text(yaml.safe_dump(in_small(recipe)), encoding="utf-8")
    outcome = compress_recipe(written, folder=folder / "run")
    return {
        "arithmetic": arithmetic(),
        "chosen": outcome.steps[outcome.chosen].name,
        "steps": {record.name: _step(record, outcome.folder) for record in outcome.steps},
    }


def _step(record: Any, root: Path) -> dict[str, Any]:
    edits = [[edit.site, str(edit.kind), edit.real, _shown(edit.data)] for edit in record.edits]
    tensors = load_file(root / record.files["safetensors"])
    file = root / record.files["onnx"]
    found = {
        "edits": len(edits),
        "plan": _digest(json.dumps([edits, [one.site for one in record.skips]]).encode()),
        "tensors": _digest(
            b"".join(
                f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes()
                for name, tensor in sorted(tensors.items())
            )
        ),
        "onnx": _digest(file.read_bytes()),
        "onnx_bytes": file.stat().st_size,
        "trained": any(edit.kind == "tune" and edit.site == "*" for edit in record.edits),
    }
    coded = file.parent / CODED
    if coded.exists():
        found |= {"coded": _digest(coded.read_bytes()), "coded_bytes": coded.stat().st_size}
    return found


def _shown(data: Any) -> Any:
    return json.loads(json.dumps(data, sort_keys=True, default=str))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    install()
    found = goldens(Path(sys.argv[1]), Path(sys.argv[2]))
    Path(sys.argv[2], "golden.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
