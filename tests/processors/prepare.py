"""Makes what the short list reads, on the processor that is really here: `prepare.py FOLDER`.

An emulated process would take minutes to export a network. So the files are made before it, with
what they must give: two int8 networks with inputs and the outputs of their
simulations, and a container of tensors.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tersenet.codec import Quantised, encode
from tersenet.core.types import Subject, Workbench
from tersenet.export import to_onnx
from tersenet.quantize import Static


def prepare(folder: Path) -> None:
    """Writes the files."""
    for reduced in (True, False):
        _network(folder, f"int8-{7 if reduced else 8}-bit-weights", reduced=reduced)
    tensors = _tensors()
    arrays = {name: value for name, value in tensors.items() if isinstance(value, np.ndarray)}
    np.savez(folder / "tensors.npz", **arrays, levels=tensors["quantised"].levels)
    for effort in ("fast", "normal", "best"):
        (folder / f"{effort}.nnc").write_bytes(encode(tensors, effort=effort))


def _network(folder: Path, name: str, *, reduced: bool) -> None:
    """Convolutions of each kind that runtimes have kernels for, on loud inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()
    with torch.no_grad():
        # Signs that agree along a row make sums of products as large as they can be.
        for layer in model:
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(layer.weight.abs().clamp(min=layer.weight.abs().max() / 2))
                layer.weight[1::2] *= -0.25
    x = torch.rand(64, 3, 12, 12)
    labels = torch.zeros(64, dtype=torch.long)
    subject = Subject(model=model, example=(x[:1],), calibration=[(x, labels)])
    settings = Static(reduce_range=reduced)
    plan = settings.plan(subject, Workbench())
    simulation, _ = settings.apply(model, plan, subject, Workbench())
    to_onnx(simulation, subject.example, folder / f"{name}.onnx")
    with torch.inference_mode():
        outputs = simulation(x)
    np.savez(folder / f"{name}.npz", inputs=x.numpy(), outputs=outputs.numpy())


def _tensors() -> dict[str, np.ndarray | Quantised]:
    rng = np.random.default_rng(0)
    levels = np.rint(rng.laplace(0, 4, (40, 300))).astype(np.int32)
    levels[rng.random(levels.shape) < 0.7] = 0
    return {
        "quantised": Quantised(levels=levels, step=2.0**-7),
        "bytes": np.clip(np.rint(rng.normal(0, 9, (64, 96))), -128, 127).astype(np.int8),
        "floats": rng.standard_normal((30, 70)).astype(np.float32),
        "halves": rng.standard_normal(500).astype(np.float16),
    }


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
