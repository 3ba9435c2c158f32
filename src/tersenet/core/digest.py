"""What tells tensors from others: digests of every byte, and sketches that rounding leaves alike.

A digest answers whether something is the same; a sketch, whether it is nearly the same, where
another machine may round another way.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

__all__ = ["alike", "digest", "sketch"]

_NEAR: Final = 1e-3


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 over names, types, shapes and bytes of dense tensors, whatever order."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        found.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
        if plain.numel():
            found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def sketch(tensors: Sequence[Tensor]) -> list[float]:
    """Returns the sum of magnitudes of each tensor, and a sum that knows the order of values."""
    found: list[float] = []
    for tensor in tensors:
        values = tensor.detach().cpu().reshape(-1).double()
        wave = torch.arange(values.numel(), dtype=torch.float64).add(1).sin()
        found += [float(values.abs().sum()), float((values * wave).clamp(min=0).sum())]
    return found


def alike(first: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two sketches, or two lists of answers, are of the same up to rounding."""
    if len(first) != len(other):
        return False
    a, b = (torch.tensor(list(each), dtype=torch.float64) for each in (first, other))
    size = float(a.abs().max()) if a.numel() else 0.0
    return bool(((a - b).abs() <= _NEAR * (a.abs() + 1e-3 * size)).all())
