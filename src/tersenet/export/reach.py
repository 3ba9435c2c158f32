"""How far a quantised network's outputs go when its activations are one level off.

A kernel that fuses its rounding may end one level from where the simulation does, and both are
right. What that comes to at the outputs depends on the network and on the sample, so it is measured
there: every quantised activation of the simulation is moved by a level up, down or not at all, by
chance, a number of times. A file within that reach differs by no more than levels explain; its
answer may be another exactly where the best two lie that close.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tersenet.export.layer_parity import FLOAT_LEVEL, SIGNS, allowed_levels
from tersenet.export.qops import QUANTIZE

__all__ = ["reach_of_levels"]

_DRAWS: Final = 16
"""Times that levels are moved."""
_FLIPPED: Final = 1e-3
"""Share of signs that are turned: of two levels the next one is the other."""


def reach_of_levels(
    model: nn.Module, inputs: Tensor, *, largest: float
) -> Float[Tensor, " sample"]:
    """Returns by how much an output of each sample moves at most when levels are one off.

    Args:
        model: a simulation, in eval mode.
        inputs: the samples.
        largest: output of the network, in magnitude: what stays float has a share of it.
    """
    with torch.inference_mode():
        due = model(inputs).flatten(1)
        reach = torch.full((len(inputs),), FLOAT_LEVEL * largest)
        for seed in range(_DRAWS):
            with _Nudged(torch.Generator().manual_seed(seed)):
                moved = model(inputs).flatten(1)
            reach = torch.maximum(reach, (moved - due).abs().amax(1))
    return reach


class _Nudged(TorchDispatchMode):
    """While it lasts, what is quantised ends a level up, a level down, or where it should."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if func is not QUANTIZE:
            return result
        low, high = args[3:5]
        if high - low == SIGNS:
            turned = torch.rand(result.shape, generator=self.generator) < _FLIPPED
            return torch.where(turned, low + high - result, result)
        most = allowed_levels(low, high)
        moves = torch.randint(-1, 2, result.shape, generator=self.generator)
        return (result.int() + most * moves).clamp_(low, high).to(result.dtype)
