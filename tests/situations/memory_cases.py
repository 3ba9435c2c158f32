"""Steps that need much memory, each made and then run; as a script, with the peak it reaches."""

import copy
import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.decompose import CP, Tucker
from tersenet.encode.fisher import curvatures
from tersenet.quantize import Static
from tersenet.quantize.rounding import BlockRounding
from tersenet.train.least_squares import NormalEquations

Step = Callable[[], object]


def _quantised(model: nn.Module, images: torch.Tensor, method: Static) -> Step:
    targets = torch.zeros(len(images), dtype=torch.int64)
    subject = Subject(
        model=model.eval(),
        example=(images[:1],),
        calibration=[(images[i : i + 32], targets[i : i + 32]) for i in range(0, len(images), 32)],
    )
    plan = method.plan(subject, Workbench())
    return lambda: method.apply(copy.deepcopy(model), plan, subject, Workbench())


def gptq() -> Step:
    """A kernel that reads 1,728 values."""
    model = nn.Sequential(nn.Conv2d(192, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    return _quantised(model, torch.randn(32, 192, 8, 8), Static(rounding="gptq"))


def block() -> Step:
    """Many samples of wide activations."""
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
    return _quantised(model, torch.randn(256, 3, 32, 32), Static(rounding=BlockRounding(steps=2)))


def fisher() -> Step:
    """Factors of 2,048 squared."""
    model = nn.Sequential(nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 2048), nn.Linear(2048, 3))
    inputs = [torch.randn(16, 2048)]
    generator = torch.Generator().manual_seed(0)
    return lambda: curvatures(model, inputs, labels=1, generator=generator)


def least_squares() -> Step:
    """Normal equations of 2,000 columns, and a solution by them."""
    x, y = torch.randn(1, 64, 2000, dtype=torch.float64), torch.randn(1, 64, 32).double()

    def run() -> object:
        moments = NormalEquations()
        for _ in range(2):
            moments.add(x, y)
        return moments.fit(torch.zeros(1, 32, 2000, dtype=torch.float64), ridge=1e-3)

    return run


def cp() -> Step:
    """A kernel of 2.4 million weights at rank 256."""
    layer = nn.Conv2d(512, 512, 3)
    return lambda: CP(iterations=3).factored(layer, (256,))


def tucker() -> Step:
    """The same by channels."""
    layer = nn.Conv2d(512, 512, 3)
    return lambda: Tucker().factored(layer, (64, 64))


def _bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise LookupError(key)


if __name__ == "__main__":
    from tersenet.core import memory

    asked: list[float] = []
    before = 0

    def free() -> int:
        # What is needed stands in the frame above, and comes to what is held by then.
        asked.append(sys._getframe(1).f_locals.get("needed", 0) + _bytes("VmRSS") - before)
        return 10**15

    memory.available_bytes = free
    step = globals()[sys.argv[1]]()
    step()  # whatever is loaded or compiled at first
    step = globals()[sys.argv[1]]()
    asked.clear()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept of the first time
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _bytes("VmRSS")
    step()
    print(json.dumps({"peak": _bytes("VmHWM") - before, "asked": max(asked)}))
