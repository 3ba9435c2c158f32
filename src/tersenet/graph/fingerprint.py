"""What the structure of a network depends on, to tell whether it has changed since it was read."""

from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor, nn

__all__ = ["fingerprint"]

_PLAIN: Final = (bool, int, float, str, bytes, type(None))
_VALUES: Final = {"training", "_parameters", "_buffers", "_modules"}


def fingerprint(
    model: nn.Module, example: tuple[Tensor, ...], outputs: Sequence[str] | None
) -> tuple[Any, ...]:
    """Returns all that a reading depends on: classes, shapes, attributes, what it is read with.

    Values of parameters are left out, as structure does not depend on them. An attribute that
    is no plain value counts by its identity, a collection of them by its contents.
    """
    modules = tuple(
        (path, type(module), _attributes(module), _tensors(module))
        for path, module in model.named_modules(remove_duplicate=False)
    )
    return modules, tuple(map(id, example)), None if outputs is None else tuple(outputs)


def _attributes(module: nn.Module) -> tuple[Any, ...]:
    own = (
        (name, _state(attribute)) for name, attribute in vars(module).items() if name not in _VALUES
    )
    return tuple(sorted(own, key=lambda pair: pair[0]))


def _tensors(module: nn.Module) -> tuple[Any, ...]:
    stores = (module._parameters, module._buffers)  # noqa: SLF001 (with those that are None)
    return tuple(
        (
            name,
            None
            if tensor is None
            else (id(tensor), tuple(tensor.shape), tensor.dtype, tensor.requires_grad),
        )
        for store in stores
        for name, tensor in store.items()
    )


def _state(value: Any, depth: int = 3) -> Any:
    if isinstance(value, _PLAIN):
        return type(value).__name__, value
    if isinstance(value, (list, tuple)) and depth:
        return type(value).__name__, tuple(_state(part, depth - 1) for part in value)
    if isinstance(value, dict) and depth:
        own = ((str(key), _state(part, depth - 1)) for key, part in value.items())
        return "dict", tuple(own)
    return "object", id(value)
