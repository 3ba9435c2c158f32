"""Layers of an exported program as modules again, so that what looks for layers finds them.

A program computes with functions on bare tensors. Repairs, factors and other methods work on
convolutions, linear layers and batch norms; where one call alone reads a layer's tensors, the
call becomes that module, of the same name and with the same tensors.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor, fx, nn
from torch.fx import GraphModule

from tersenet.graph.visit import bound_arguments, operator_name

__all__ = ["restore_layers"]

_TENSORS: Final = ("weight", "bias", "running_mean", "running_var")
"""Arguments that a layer owns, under these names."""
_COUNTER: Final = "num_batches_tracked"
_CONVOLUTIONS: Final[Mapping[str, type[nn.Module]]] = {
    "aten.conv1d": nn.Conv1d,
    "aten.conv2d": nn.Conv2d,
    "aten.conv3d": nn.Conv3d,
}
_NORMS: Final[Mapping[int, type[nn.Module]]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
"""By the dimensions of what they read."""


def restore_layers(module: GraphModule, rank: Callable[[fx.Node], int | None]) -> None:
    """Puts modules in place of calls, as far as a call alone reads the tensors of a module.

    Args:
        module: the program, changed in place; its tensors keep names and identity.
        rank: the dimensions of a node's value, where they are known.
    """
    found = [(node, _layer(module, node, rank)) for node in module.graph.nodes]
    for node, made in found:
        if made is None:
            continue
        path, layer = made
        home, _, own = path.rpartition(".")
        setattr(module.get_submodule(home), own, layer)
        with module.graph.inserting_before(node):
            call = module.graph.call_module(path, (bound_arguments(node)["input"],))
        call.meta = node.meta
        node.replace_all_uses_with(call)
        module.graph.erase_node(node)
        for read in list(module.graph.nodes):
            if read.op == "get_attr" and read.target.startswith(f"{path}.") and not read.users:
                module.graph.erase_node(read)
    module.recompile()


def _layer(
    module: GraphModule, node: fx.Node, rank: Callable[[fx.Node], int | None]
) -> tuple[str, nn.Module] | None:
    """Returns the path and the module that a call is, or None where it is none."""
    name = operator_name(node.target).rpartition(".")[0] if node.op == "call_function" else ""
    if name not in ("aten.linear", "aten.batch_norm", *_CONVOLUTIONS):
        return None
    given = bound_arguments(node)
    read = {role: given[role] for role in _TENSORS if given.get(role) is not None}
    path = _owner(module, read)
    if path is None:
        return None
    tensors = {role: _tensor(module, f"{path}.{role}") for role in read}
    layer = _built(name, given, tensors, rank)
    if layer is None:
        return None
    home: Any = module.get_submodule(path)
    for store, old in ((layer._parameters, home._parameters), (layer._buffers, home._buffers)):  # noqa: SLF001 (setattr would re-register)
        for role in store:
            store[role] = old.get(role)
    return path, layer.train(module.training)


def _owner(module: GraphModule, read: Mapping[str, Any]) -> str | None:
    """Returns the path of the module that holds these tensors, and none but these."""
    if not all(isinstance(node, fx.Node) and node.op == "get_attr" for node in read.values()):
        return None
    targets = {role: str(node.target).rpartition(".") for role, node in read.items()}
    paths = {path for path, _, _ in targets.values()}
    if "weight" not in read or len(paths) != 1 or "" in paths:
        return None
    if any(own != role or len(read[role].users) != 1 for role, (_, _, own) in targets.items()):
        return None
    (path,) = paths
    home = module.get_submodule(path)
    held = {*home._parameters, *home._buffers} - {_COUNTER}  # noqa: SLF001 (names alone)
    return path if held == read.keys() and not home._modules else None  # noqa: SLF001


def _tensor(module: nn.Module, name: str) -> Tensor:
    home, _, own = name.rpartition(".")
    return getattr(module.get_submodule(home), own)


def _built(
    name: str,
    given: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    rank: Callable[[fx.Node], int | None],
) -> nn.Module | None:
    """Returns a layer of that kind and those sizes, without its tensors."""
    weight, bias = tensors["weight"], "bias" in tensors
    if name == "aten.linear":
        return nn.Linear(weight.shape[1], weight.shape[0], bias=bias, device="meta")
    if name == "aten.batch_norm":
        kind = _NORMS.get(rank(given["input"]) or 0)
        if kind is None or tensors.keys() != set(_TENSORS):
            return None
        return kind(len(weight), eps=given["eps"], momentum=given["momentum"], device="meta")
    constants: dict[str, Any] = {
        name: given[name] for name in ("stride", "padding", "dilation", "groups")
    }
    if not all(
        type(number) in (int, str) for constant in constants.values() for number in _flat(constant)
    ):
        return None  # derived in the program
    convolution: Any = _CONVOLUTIONS[name]  # which of them is not known to the checker
    return convolution(
        weight.shape[1] * constants["groups"],
        weight.shape[0],
        tuple(weight.shape[2:]),
        **{
            key: tuple(constant) if isinstance(constant, list) else constant
            for key, constant in constants.items()
        },
        bias=bias,
        device="meta",
    )


def _flat(constant: Any) -> Any:
    return constant if isinstance(constant, list | tuple) else (constant,)
