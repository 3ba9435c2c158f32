"""How long two modules that do the same job take, in turns, each written for the runtime."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, final

import torch
from torch import Tensor, nn

from tersenet.core.types import Deployment, Workbench
from tersenet.timing.files import FileTimer
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
    """Returns the milliseconds of what two functions make, on a batch of such samples.

    Raises:
        ExportError: if a module cannot be written for the runtime.
        MeasureError: if the runtime is not installed or does not take the files.
    """
    example = (torch.zeros(2, *sample),)
    deployment = replace(deployment, precision="fp32")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        baseline = _Copies(before).eval()
        timer = FileTimer(baseline, example, deployment, batch, bench, plan=MANY)
        (speedup,) = timer.time(_Copies(after).eval())
    # The ratio comes from rounds, the level from the first: their quotient is the other's.
    before_ms = speedup.baseline.p50_ms / _COPIES
    return round(before_ms, 7), round(before_ms / speedup.ratio, 7)


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
