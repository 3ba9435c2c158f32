"""How long two modules that do the same job take, in turns, each written for the runtime."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor, nn

from tersenet.core.types import Deployment, Workbench
from tersenet.export import to_onnx
from tersenet.timing.files import time_files
from tersenet.timing.plan import MANY

__all__ = ["module_times"]

_COPIES: Final = 4  # in the file: what enters and leaves it weighs less


def module_times(
    before: Callable[[], nn.Module],
    after: Callable[[], nn.Module],
    sample: tuple[int, ...],
    deployment: Deployment,
    *,
    batch: int,
    bench: Workbench,
) -> tuple[float, float]:
    """Returns the milliseconds of what two functions make, at a batch of `batch`.

    Args:
        before: makes the module as it stands, with any weights.
        after: makes the one in its place.
        sample: shape of one input.
        deployment: runtime and threads.
        batch: samples in one inference.
        bench: as `time_files`.

    Raises:
        ExportError: if a module cannot be written for the runtime.
        MeasureError: if the runtime is not installed or does not take the files.
    """
    example = (torch.zeros(2, *sample),)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        files = {name: Path(folder) / f"{name}.onnx" for name in ("before", "after")}
        for make, path in zip((before, after), files.values(), strict=True):
            to_onnx(_Copies(make).eval(), example, path)
        deployment = replace(deployment, batches=(batch,), precision="fp32")
        (found,) = time_files(files, deployment=deployment, plan=MANY, bench=bench)["after"]
    # The ratio comes from rounds, the level from the first: their quotient is the other's.
    before_ms = found.baseline_ms / _COPIES
    return round(before_ms, 7), round(before_ms / found.ratio, 7)


@final
class _Copies(nn.Module):
    """Modules of different weights that read the same input and are summed, as `write_layers`."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make() for _ in range(_COPIES))

    def forward(self, x: Tensor) -> Tensor:
        total = self.layers[0](x)
        for layer in list(self.layers)[1:]:
            total = total + layer(x)
        return total
