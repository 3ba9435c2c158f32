"""Reading an exported graph for parts that can go whole: residual branches, layers of a chain.

Everything here speaks of the graph's nodes; `finder.py` says which modules they belong to.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, final

import torch
from torch import fx

from tersenet.graph.products import Product, from_inputs, products
from tersenet.graph.visit import operator_name, shape_of

__all__ = ["Flow", "Residual"]

_SAME: Final = {"aten.dropout", "aten.clone", "aten.contiguous", "aten.alias"}
"""What passes its input on, in eval mode."""
_SHAPES: Final = {f"aten.{name}" for name in ("view", "reshape", "flatten", "squeeze", "permute")}
_NORMS: Final = {f"aten.{kind}_norm" for kind in ("batch", "layer", "group", "instance", "rms")}
_ACTIVATIONS: Final = {
    f"aten.{name}"
    for name in """
        relu relu6 gelu silu elu selu celu mish leaky_relu prelu tanh sigmoid hardtanh hardswish
        hardsigmoid softplus clamp clamp_min
    """.split()  # noqa: SIM905 (as the rules have it)
}
_IDEMPOTENT: Final = {"aten.relu", "aten.relu6", "aten.hardtanh", "aten.clamp", "aten.clamp_min"}
"""f(f(x)) = f(x)."""
_PICK: Final = {
    f"aten.{prefix}max_pool{rank}d" for prefix in ("", "adaptive_") for rank in (1, 2, 3)
}
"""What gives some of its input's values."""


@final
@dataclass(frozen=True, eq=False)
class Residual:
    """total = branch(start) + start."""

    start: fx.Node
    end: fx.Node
    """Of the branch."""
    total: fx.Node
    branch: frozenset[fx.Node]
    """All that is computed for it alone."""


@final
class Flow:
    """The values that depend on a network's inputs, and how they hang together."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        derived = from_inputs(program)
        self.nodes = [node for node in program.graph.nodes if node in derived and _holds_data(node)]
        self.order = {node: place for place, node in enumerate(self.nodes)}
        self.inputs = {node for node in self.nodes if node.op == "placeholder"}
        self.products: dict[fx.Node, Product] = {
            product.node: product for product in products(program)
        }
        self._output = program.graph.output_node()

    @cached_property
    def residuals(self) -> list[Residual]:
        """The sums with their own input whose branch does nothing else, innermost ones only."""
        found = [residual for node in self.nodes for residual in self._residual(node)]
        totals = {residual.total for residual in found}
        return [residual for residual in found if totals.isdisjoint(residual.branch)]

    @cached_property
    def sums(self) -> list[fx.Node]:
        """The sums of two computed values of one shape."""
        return [node for node in self.nodes if self._is_sum(node)]

    def reads(self, node: fx.Node) -> list[fx.Node]:
        """Returns the values a node is computed from."""
        return [source for source in node.all_input_nodes if source in self.order]

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """Returns what reads a value; the graph's output is one."""
        return [reader for reader in node.users if reader in self.order or reader is self._output]

    def is_output(self, node: fx.Node) -> bool:
        """Returns whether the network returns a value, as it is or in another shape."""
        readers = self.readers(node)
        while len(readers) == 1 and _name(readers[0]) in _SAME | _SHAPES:
            readers = self.readers(readers[0])
        return self._output in readers

    def passed(self, node: fx.Node) -> fx.Node:
        """Returns the value that a node passes on unchanged, or the node."""
        while _name(node) in _SAME:
            node = self.reads(node)[0]
        return node

    def no_op(self, node: fx.Node, before: fx.Node) -> bool:
        """Returns whether a node would leave the value of `before` as it is."""
        name = _name(node)
        if name in _SAME:
            return True
        if name not in _IDEMPOTENT:
            return False
        while _name(before) in _SAME | _PICK and self.reads(before):
            before = self.reads(before)[0]
        return _name(before) == name and _constants(before) == _constants(node)

    def layers(self) -> list[list[fx.Node]]:
        """Returns every product on the one way from inputs to outputs, with what follows it.

        What follows are norms and activations that alone read what is before them.
        """
        found = []
        for node in self._crossings:
            if node in self.products and self.products[node].tensor is not None:
                layer = [node]
                while (
                    len(following := self.readers(layer[-1])) == 1
                    and _name(following[0]) in _NORMS | _ACTIVATIONS | _SAME
                    and self.reads(following[0]) == [layer[-1]]
                ):
                    layer.append(following[0])
                found.append(layer)
        return found

    @cached_property
    def _crossings(self) -> list[fx.Node]:
        """The values that everything passes: none before them is read after them."""
        found, furthest = [], 0
        for place, node in enumerate(self.nodes):
            if furthest <= place:
                found.append(node)
            ends = [self.order.get(reader, len(self.nodes)) for reader in self.readers(node)]
            furthest = max([furthest, *ends])
        return found

    def _is_sum(self, node: fx.Node) -> bool:
        if _name(node) != "aten.add":
            return False
        parts = [part for part in node.args[:2] if isinstance(part, fx.Node) and part in self.order]
        return len(parts) == 2 and len({shape_of(part) for part in (*parts, node)}) == 1

    def _residual(self, total: fx.Node) -> Iterable[Residual]:
        if not self._is_sum(total):
            return
        left, right = total.args[:2]
        for end, shortcut in ((left, right), (right, left)):
            assert isinstance(end, fx.Node)
            assert isinstance(shortcut, fx.Node)
            start = self.passed(shortcut)
            branch = self._between(start, end)
            inside = all(reader in branch for own in branch - {end} for reader in self.readers(own))
            if branch and inside and self.readers(end) == [total]:
                yield Residual(start, end, total, branch)

    def _between(self, start: fx.Node, end: fx.Node) -> frozenset[fx.Node]:
        """Returns the values computed from `start` that `end` is computed from, with `end`."""
        if start is end or self.order[end] < self.order[start]:
            return frozenset()
        wanted, stack = {end}, [end]
        while stack:
            for source in self.reads(stack.pop()):
                if source not in wanted and self.order[source] > self.order[start]:
                    wanted.add(source)
                    stack.append(source)
        reached = {start}
        for node in sorted(wanted, key=self.order.__getitem__):
            if not reached.isdisjoint(self.reads(node)):
                reached.add(node)
        return frozenset(reached - {start}) if end in reached else frozenset()


def _name(node: fx.Node) -> str:
    """Returns 'aten.relu' for either form of it, in place or not; '' for an input."""
    name = operator_name(node.target) if node.op == "call_function" else ""
    return name.rpartition(".")[0].removesuffix("_")


def _constants(node: fx.Node) -> tuple[Any, ...]:
    return (*node.args[1:], *sorted(node.kwargs.items()))


def _holds_data(node: fx.Node) -> bool:
    value = node.meta.get("val")
    parts: Sequence[Any] = value if isinstance(value, tuple | list) else [value]
    return any(isinstance(part, torch.Tensor) for part in parts)
