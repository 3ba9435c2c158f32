"""Denormal weights: numbers so small that processors compute with them in microcode."""

from typing import Final

import torch
from torch import nn

__all__ = ["flush_denormals_"]

_LEAST: Final = 1e-30
"""Far above float32's denormals (below 1.2e-38), as products with activations are smaller yet."""


def flush_denormals_(model: nn.Module) -> int:
    """Sets parameters below 1e-30 to zero, in place; returns how many there were.

    Weight decay and penalties leave them behind in what was pruned or never used. They change no
    output that float32 can show, and slow down inference on CPUs manifold.
    """
    flushed = 0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                tiny = (parameter.abs() < _LEAST) & (parameter != 0)
                flushed += int(tiny.sum())
                parameter.masked_fill_(tiny, 0)
    return flushed
