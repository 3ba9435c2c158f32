"""How long a convolution and its block take on the runtime that will ship, in turns."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor, nn

from tersenet.core.types import Deployment, Workbench
from tersenet.export import to_onnx
from tersenet.measure import compare
from tersenet.measure.times import keep_times, read_times
from tersenet.replace.sites import PlainConvolution as Convolution

__all__ = ["block_times"]

_FILE: Final = "block_times.json"
_COPIES: Final = 4  # in the file: what enters and leaves it weighs less
_ITERATIONS: Final = 40
_SECONDS: Final = 0.3


def block_times(
    pairs: Mapping[str, tuple[Convolution, dict[str, int]]],
    block: Callable[[Convolution, dict[str, int]], nn.Module],
    deployment: Deployment,
    *,
    batch: int,
    bench: Workbench,
) -> dict[str, tuple[float, float]]:
    """Returns the median milliseconds of each convolution and of its block, by kind.

    What was measured is kept in the workbench's folder, so that a resumed run decides alike.

    Raises:
        ExportError: if a block cannot be written for the runtime.
        MeasureError: if the runtime is not installed or does not take the files.
    """
    path = None if bench.folder is None else bench.folder / _FILE
    known = read_times(path)
    deployment = replace(deployment, batches=(batch,))
    found = {}
    for done, (kind, (conv, sizes)) in enumerate(pairs.items()):
        bench.tick("timing blocks", done, len(pairs))
        key = f"{deployment.runtime}, {deployment.threads} threads, batch {batch}: {kind}"
        if key not in known:
            known[key] = _measure(conv, lambda c=conv, s=sizes: block(c, s), deployment)
            if path is not None:
                keep_times(path, known)
        found[kind] = (known[key][0], known[key][1])
    return found


@final
class _Copies(nn.Module):
    """Layers of different weights that read the same input and are summed, as in `prune`."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make() for _ in range(_COPIES))

    def forward(self, x: Tensor) -> Tensor:
        total = self.layers[0](x)
        for layer in list(self.layers)[1:]:
            total = total + layer(x)
        return total


def _measure(
    conv: Convolution, block: Callable[[], nn.Module], deployment: Deployment
) -> list[float]:
    example = (torch.zeros(2, conv.channels, *conv.reads),)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        files = {"conv": conv.plain, "block": block}
        for name, make in files.items():
            to_onnx(_Copies(make).eval(), example, Path(folder) / f"{name}.onnx")
        (speedup,) = compare(
            Path(folder) / "block.onnx",
            Path(folder) / "conv.onnx",
            deployment=deployment,
            iterations=_ITERATIONS,
            seconds=_SECONDS,
        )
    # The ratio comes from rounds, the level from the convolution: their quotient is the block's.
    before = speedup.baseline.p50_ms / _COPIES
    return [round(before, 7), round(before / speedup.ratio, 7)]
