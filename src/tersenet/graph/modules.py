"""Modules of a network: what each reads and makes, who shares tensors, others in their places."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from tersenet.errors import StructureError
from tersenet.graph.reading import evaluating

__all__ = ["Call", "Shape", "calls_of", "owners", "place_", "place_all_"]

Shape: TypeAlias = tuple[int, ...]


@final
@dataclass(frozen=True)
class Call:
    """One call of a module, the samples first in both shapes."""

    reads: Shape | None
    """Of its first input; None where that is no tensor."""
    makes: Shape | None


def calls_of(
    model: nn.Module, modules: Mapping[str, nn.Module], example: tuple[Tensor, ...]
) -> dict[str, list[Call]]:
    """Returns the calls of each module that runs on the example, in the order of execution."""
    calls: dict[str, list[Call]] = {}

    def hook(name: str) -> Any:
        def note(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            first = inputs[0] if inputs else None
            calls.setdefault(name, []).append(Call(_shape(first), _shape(output)))

        return note

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        with evaluating(model), torch.no_grad():
            model(*example)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def owners(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """Returns by a parameter's identity all its names, each with the module that has it so."""
    found: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(path, recurse=False, remove_duplicate=False):
            found.setdefault(id(parameter), []).append((name, module))
    return found


def place_(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts a module in another's place, under every name that it has."""
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for own, child in list(parent._modules.items()):  # noqa: SLF001 (a child twice is one child)
            if child is old:
                setattr(parent, own, module)


def place_all_(
    model: nn.Module, modules: Mapping[str, nn.Module], example: tuple[Tensor, ...], *, what: str
) -> None:
    """Puts modules in place by name, and all back where the network then does not run.

    Args:
        model: the network.
        modules: what goes in, by the name of what is there.
        example: inputs to run it on.
        what: they are, a plural.

    Raises:
        StructureError: if it does not run.
    """
    olds = {name: model.get_submodule(name) for name in modules}
    for name, module in modules.items():
        place_(model, name, module)
    try:
        with evaluating(model), torch.no_grad():
            model(*example)
    except Exception as error:
        for name, old in olds.items():
            place_(model, name, old)
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise StructureError(
            f"the network does not run with {what} in place of {', '.join(modules)} ({line}): its "
            "forward() reads a layer's weight itself; add that layer to skip."
        ) from error


def _shape(value: Any) -> Shape | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
