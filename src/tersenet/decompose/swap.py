"""Chains put in the places of layers: all of them, or none."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tersenet.errors import StructureError

__all__ = ["place", "swap_"]


def place(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts a module in another's place, under every name that it has."""
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for own, child in list(parent._modules.items()):  # noqa: SLF001 (a child twice is one child)
            if child is old:
                setattr(parent, own, module)


def swap_(model: nn.Module, found: Mapping[str, nn.Module], example: tuple[Tensor, ...]) -> None:
    """Puts all modules in place, and all layers back where the network then does not run.

    Raises:
        StructureError: if it does not.
    """
    olds = {name: model.get_submodule(name) for name in found}
    for name, module in found.items():
        place(model, name, module)
    try:
        with torch.no_grad():
            model.eval()(*example)
    except Exception as error:
        for name, old in olds.items():
            place(model, name, old)
        raise StructureError(
            f"the network does not run with its layers factored ({type(error).__name__}: {error}): "
            "it reads a layer's weight itself; name that layer in skip."
        ) from error
