"""Denormal weights: numbers so small that processors compute with them in microcode."""

from typing import Final

import torch
from torch import nn

__all__ = ["flush_denormals_"]

_LEAST: Final = 1e-30
"""Far above float32's denormals (below 1.2e-38), as products with activations are smaller yet."""
_FELT: Final = 2.0**-24
"""Of a tensor's largest weight: what is added to it and smaller changes no sum of 32-bit floats."""


def flush_denormals_(model: nn.Module) -> int:
    """Sets parameters below 1e-30 to zero, in place; returns how many there were.

    Weight decay and penalties leave them behind in what was pruned or never used. Beside others
    of their tensor they change no output that float32 can show, and they slow down inference on
    CPUs manifold. A tensor that is as small all over is left: a later one may make up for it.
    """
    flushed = 0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                sizes = parameter.abs()
                felt = _FELT * sizes.max() if sizes.numel() else 0.0
                tiny = (sizes < _LEAST) & (sizes < felt) & (parameter != 0)
                flushed += int(tiny.sum())
                parameter.masked_fill_(tiny, 0)
    return flushed
