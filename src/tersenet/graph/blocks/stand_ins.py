"""What stands in the place of modules that were dropped: it computes nothing."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias, final

import torch
from torch import Tensor, nn

__all__ = ["STAND_INS", "Passed", "StandIn", "Zero", "swap_"]

StandIn: TypeAlias = Literal["identity", "relu", "zero"]


@final
class Passed(nn.Identity):
    """Returns its first argument, whatever else a layer in its place was given."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the first argument."""
        return args[0] if args else next(iter(kwargs.values()))


@final
class Zero(nn.Module):
    """The number zero, where a branch was added to its shortcut."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns zero, in the precision of the first argument."""
        first = args[0] if args else next(iter(kwargs.values()))
        return torch.zeros((), dtype=first.dtype, device=first.device)


STAND_INS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "identity": Passed,
    "relu": nn.ReLU,
    "zero": Zero,
}


def swap_(model: nn.Module, swaps: Mapping[str, str]) -> None:
    """Puts stand-ins in the place of modules."""
    for name, by in swaps.items():
        model.set_submodule(name, STAND_INS[by]())
