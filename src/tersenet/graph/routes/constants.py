"""Sizes written into calls, derived anew for fewer units.

In an exported program the sizes of a `view`, the bounds of a slice or the groups of a
convolution are numbers. They follow from the labels: a size is the number of labels left, a
bound the number left before it.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, final

import torch
from torch import fx

from tersenet.graph.labels import Array, Value
from tersenet.graph.rules.gathering import spread
from tersenet.graph.visit import bound_arguments, operator_name
from tersenet.graph.walk import Remainder

__all__ = ["Fit", "constants", "fit"]


@final
class Fit:
    """One node of a program whose values lose indices."""

    def __init__(self, node: fx.Node, remainder: Remainder, values: Callable[[Any], Any]) -> None:
        """`values` returns the labels of a node's output as they were found by the walk."""
        self.node, self.remainder = node, remainder
        self.args = bound_arguments(node)
        self._values = values

    def value(self, name: str) -> Value:
        """Returns the labels of a tensor argument; () where it is None or a number."""
        found = self._values(self.args.get(name))
        return found if isinstance(found, tuple) else ()

    @property
    def outputs(self) -> list[Value]:
        """The labels of each output."""
        found = self._values(self.node)
        return found if isinstance(found, list) else [found]

    def changed(self, labels: Array) -> bool:
        """Returns whether a dimension loses indices."""
        return self.remainder.size(labels) != len(labels)

    def before(self, labels: Array, bound: int) -> int:
        """Returns the number of indices left before a bound, negative ones from the end."""
        return self.remainder.size(labels[:bound])

    def sizes(self, written: Sequence[Any], value: Value) -> list[Any]:
        """Returns the sizes in a call for the labels of a tensor, numbers or computed."""
        return [self._size(size, labels) for size, labels in zip(written, value, strict=True)]

    def _size(self, size: Any, labels: Array) -> Any:
        wanted = self.remainder.size(labels)
        if isinstance(size, int):
            return size if size == -1 or size != len(labels) else wanted
        found = self._computed(size)
        if found == wanted:
            return size
        graph = self.node.graph
        with graph.inserting_before(self.node):  # in proportion, for any batch
            scaled = graph.call_function(operator.mul, (size, wanted))
            return graph.call_function(operator.floordiv, (scaled, found))

    def _computed(self, size: Any) -> Any:
        """Returns what a computed size is at the traced inputs, once indices are gone."""
        if not isinstance(size, fx.Node):
            return size
        if operator_name(size.target) == "aten.sym_size.int":
            tensor, dim = size.args
            value = self._values(tensor)
            return self.remainder.size(value[dim])
        if getattr(size.target, "__module__", "") in ("_operator", "math"):
            own: Any = size.target
            return own(*(self._computed(operand) for operand in size.args))
        hint = size.meta["val"]
        return hint if isinstance(hint, int) else int(hint.node.hint)


Derivation: TypeAlias = Callable[[Fit], dict[str, Any]]
"""Returns the arguments of a call that change, by name."""

_DERIVATIONS: Final[dict[str, Derivation]] = {}


def constants(*names: str) -> Callable[[Derivation], Derivation]:
    """Registers how the numbers in an operator's call follow from what is left.

    Needed for an operator that takes sizes of dimensions its `rule` lets shrink.
    """

    def register(function: Derivation) -> Derivation:
        _DERIVATIONS.update(dict.fromkeys(names, function))
        return function

    return register


def fit(node: fx.Node, remainder: Remainder, values: Callable[[Any], Any]) -> None:
    """Rewrites, in place, the numbers in a node's call."""
    name = operator_name(node.target)
    derive = _DERIVATIONS.get(name) or _DERIVATIONS.get(name.rpartition(".")[0])
    if derive is None:
        return
    own = Fit(node, remainder, values)
    found = derive(own)
    if "split_sizes" in found and "split_sizes" not in own.args:
        node.target = torch.ops.aten.split_with_sizes.default
        node.args, node.kwargs = (own.args["self"], found["split_sizes"], own.args["dim"]), {}
        return
    schema: Any = node.target
    places = {argument.name: i for i, argument in enumerate(schema._schema.arguments)}  # noqa: SLF001 (there is no public one)
    for key, value in found.items():
        if places[key] < len(node.args):
            node.update_arg(places[key], value)
        else:
            node.update_kwarg(key, value)


@constants(
    *(f"aten.{name}" for name in ("view", "reshape", "_unsafe_view", "expand", "broadcast_to")),
    *(f"aten.{name}" for name in ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full")),
)
def _shape(own: Fit) -> dict[str, Any]:
    name = "size" if "size" in own.args else "shape"
    return {name: own.sizes(own.args[name], own.outputs[0])}


@constants("aten.unflatten")
def _unflatten(own: Fit) -> dict[str, Any]:
    dim, sizes = own.args["dim"] % len(own.value("self")), own.args["sizes"]
    return {"sizes": own.sizes(sizes, own.outputs[0][dim : dim + len(sizes)])}


@constants("aten.split", "aten.split_with_sizes", "aten.tensor_split", "aten.chunk")
def _split(own: Fit) -> dict[str, Any]:
    x = own.value("self")
    dim = own.args["dim"] % len(x)
    parts = [value[dim] for value in own.outputs]
    if not own.changed(x[dim]):
        return {}
    sizes = [own.remainder.size(part) for part in parts]
    if "chunks" in own.args and len(set(sizes)) == 1:
        return {}
    return {"split_sizes": sizes}


@constants("aten.slice.Tensor", "aten.narrow")
def _slice(own: Fit) -> dict[str, Any]:
    labels = own.value("self")[own.args["dim"]]
    start, end = own.args.get("start"), own.args.get("end")
    if not own.changed(labels):
        return {}
    if isinstance(start, int) and "length" in own.args:
        return {
            "start": own.before(labels, start),
            "length": own.remainder.size(own.outputs[0][own.args["dim"]]),
        }
    found: dict[str, Any] = {"start": own.before(labels, start) if start else start}
    return found if end is None or end >= len(labels) else found | {"end": own.before(labels, end)}


@constants("aten.select")
def _select(own: Fit) -> dict[str, Any]:
    labels, index = own.value("self")[own.args["dim"]], own.args["index"]
    return {"index": own.before(labels, index)} if own.changed(labels) else {}


@constants(*(f"aten.conv{n}d" for n in (1, 2, 3)), *(f"aten.conv_transpose{n}d" for n in (1, 2, 3)))
def _convolution(own: Fit) -> dict[str, Any]:
    x, weight, groups = own.value("input"), own.value("weight"), own.args.get("groups", 1)
    transposed = "transpose" in operator_name(own.node.target)
    reads = len(x[1]) // groups if transposed else len(weight[1])  # of one group
    depthwise = groups > 1 and reads == 1
    return {"groups": own.remainder.size(x[1])} if depthwise and own.changed(x[1]) else {}


@constants("aten.layer_norm", "aten.native_layer_norm", "aten.rms_norm")
def _layer_norm(own: Fit) -> dict[str, Any]:
    written = own.args["normalized_shape"]
    return {"normalized_shape": own.sizes(written, own.value("input")[-len(written) :])}


@constants("aten.roll")
def _roll(own: Fit) -> dict[str, Any]:
    x, dims, shifts = own.value("self"), own.args["dims"], own.args["shifts"]
    if not any(own.changed(x[dim]) for dim in dims):
        return {}
    wraps = [len(x[dim]) - shift % len(x[dim]) for dim, shift in zip(dims, shifts, strict=True)]
    return {
        "shifts": [own.remainder.size(x[dim][at:]) for dim, at in zip(dims, wraps, strict=True)]
    }


@constants("aten.gather", "aten.take_along_dim", "aten.scatter", "aten.scatter_add")
def _gather(own: Fit) -> dict[str, Any]:
    x, index, graph = own.value("self"), own.args["index"], own.node.graph
    for dim in spread(index):  # an index that was spread is spread over what is left
        if own.changed(x[dim]):
            with graph.inserting_before(own.node):
                part = (index, dim, 0, own.remainder.size(x[dim]))
                index = graph.call_function(torch.ops.aten.slice.Tensor, part)
    return {} if index is own.args["index"] else {"index": index}
