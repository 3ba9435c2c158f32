"""Dropping blocks for real: the module is gone, and what stands in for it computes nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from tersenet.core.types import Edit, EditKind
from tersenet.errors import StructureError

__all__ = ["Passed", "StandIn", "Zero", "drop", "replay_drops", "swap_"]

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


_MAKE: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "identity": Passed,
    "relu": nn.ReLU,
    "zero": Zero,
}


def swap_(model: nn.Module, swaps: Mapping[str, StandIn]) -> None:
    """Puts stand-ins in the place of modules."""
    for name, by in swaps.items():
        model.set_submodule(name, _MAKE[by]())


def drop(model: nn.Module, blocks: Mapping[str, Mapping[str, StandIn]]) -> list[Edit]:
    """Drops the modules of each block by its name, in place, and returns the edits."""
    edits = [
        Edit(
            site=site,
            kind=EditKind.DROP,
            before=_text(model.get_submodule(site)),
            after=by,
            data={"block": name},
        )
        for name, swaps in blocks.items()
        for site, by in swaps.items()
    ]
    replay_drops(model, edits)
    return edits


def replay_drops(model: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """Repeats drops on a network as it was before them, in place; returns it.

    Raises:
        StructureError: before anything is changed, if an edit does not fit the network.
    """
    known = dict(model.named_modules())
    for edit in edits:
        if edit.kind != EditKind.DROP or edit.site not in known or edit.after not in _MAKE:
            raise StructureError(
                f"the edit '{edit.kind} {edit.site}' does not belong to this network: replay "
                "edits on the architecture that they were made on."
            )
    for edit in edits:
        model.set_submodule(edit.site, _MAKE[edit.after]())
    return model


def _text(module: nn.Module) -> str:
    count = sum(one.numel() for one in module.parameters())
    return f"{type(module).__name__} of {count:,} parameters"
