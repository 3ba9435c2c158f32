"""Modules of a network: what each reads and makes, who shares tensors, others in their places."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from tersenet.errors import StructureError
from tersenet.graph.reading import evaluating

__all__ = ["Call", "Shape", "calls_of", "owners", "place_", "place_all_", "watching"]

Shape: TypeAlias = tuple[int, ...]
See: TypeAlias = Callable[[str, nn.Module, tuple[Any, ...], Any], None]
"""Told at each call of a module: its name, itself, its inputs and its output."""


@final
@dataclass(frozen=True)
class Call:
    """One call of a module, the samples first in both shapes."""

    reads: Shape | None
    """Of its first input; None where that is no tensor."""
    makes: Shape | None


@contextlib.contextmanager
def watching(model: nn.Module, names: Iterable[str], see: See) -> Iterator[nn.Module]:
    """Has `see` called whenever one of the named modules is, in eval mode, without gradients."""
    handles = [
        model.get_submodule(name).register_forward_hook(functools.partial(see, name))
        for name in names
    ]
    try:
        with evaluating(model), torch.no_grad():
            yield model
    finally:
        for handle in handles:
            handle.remove()


def calls_of(
    model: nn.Module, names: Iterable[str], example: tuple[Tensor, ...]
) -> dict[str, list[Call]]:
    """Returns the calls of each named module that runs, in the order of execution."""
    calls: dict[str, list[Call]] = {}

    def note(name: str, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        first = inputs[0] if inputs else None
        calls.setdefault(name, []).append(Call(_shape(first), _shape(output)))

    with watching(model, names, note):
        model(*example)
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
