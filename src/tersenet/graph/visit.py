"""What a rule sees of one node, and the table that rules are registered in."""

import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Final, TypeAlias, final

import torch
from torch import fx
from torch._ops import OpOverload

from tersenet.graph.labels import Array, Labels, Value
from tersenet.graph.reading import source_line

__all__ = [
    "Rule",
    "Visit",
    "bound_arguments",
    "operator_name",
    "rule",
    "rule_for",
    "registered_rules",
    "shape_of",
]


@final
class Visit:
    """One node of the graph: its arguments by name, their labels, and how to tie them."""

    def __init__(
        self,
        node: fx.Node,
        *,
        labels: Labels,
        values: Mapping[fx.Node, Any],
        from_input: Set[fx.Node],
        kept_only: dict[fx.Node, list[Array]] | None = None,
    ) -> None:
        self.node = node
        self.labels = labels
        self._values = values
        self._from_input = from_input
        self.kept_only = {} if kept_only is None else kept_only
        self.args: dict[str, Any] = bound_arguments(node)

    @property
    def op(self) -> str:
        """The operator, e.g. aten.conv2d.default."""
        return operator_name(self.node.target)

    @property
    def where(self) -> str:
        """The node and, where known, the line of the user's source."""
        line = source_line(self.node)
        return f"{self.node.name}, at {line}" if line else self.node.name

    @property
    def shape(self) -> tuple[int, ...]:
        """The output's shape at the traced batch size."""
        return shape_of(self.node)

    def value(self, name: str) -> Value:
        """Returns the labels of a tensor argument; () where it is None or a number."""
        arg = self.args.get(name)
        found = self._values.get(arg) if isinstance(arg, fx.Node) else None
        return found if isinstance(found, tuple) else ()

    def values(self, name: str) -> list[Value]:
        """Returns the labels of an argument that is a list of tensors."""
        return [self._values[node] for node in self.args[name]]

    def tensors(self) -> list[Value]:
        """Returns the labels of every tensor among the inputs."""
        found = (self._values.get(node) for node in self.node.all_input_nodes)
        flat = (item if isinstance(item, list) else [item] for item in found)
        return [value for value in itertools.chain(*flat) if value is not None]

    def depends_on_input(self, name: str) -> bool:
        """Returns whether an argument is computed from the network's inputs."""
        return self.args[name] in self._from_input

    def of(self, node: Any) -> Value:
        """Returns the labels of a node's tensor, such as one of a list of arguments."""
        found = self._values.get(node) if isinstance(node, fx.Node) else None
        return found if isinstance(found, tuple) else ()

    def computed(self, node: fx.Node) -> bool:
        """Returns whether a node is computed from the network's inputs."""
        return node in self._from_input

    def outputs_of(self, node: Any) -> list[Value]:
        """Returns the labels of each output of an operator that has several."""
        found = self._values[node]
        return found if isinstance(found, list) else [found]

    def tie(self, left: Array, right: Array) -> None:
        """Ties two dimensions index by index, or fixes both where their sizes differ."""
        if len(left) == len(right):
            self.labels.tie(left, right)
        else:
            self.freeze(left, "changes its size")
            self.freeze(right, "changes its size")

    def freeze(self, labels: Array, what: str) -> None:
        """Fixes a dimension because this operator `what`."""
        self.labels.freeze(labels, f"{self.op} {what} ({self.where})")

    def fixed(self, size: int, what: str = "has a dimension that is no channel") -> Array:
        """Returns labels for an output dimension that cannot shrink."""
        return self.labels.fixed(size, f"{self.op} {what}")

    def over_kept(self, dims: Iterable[Array], change: str | None = None) -> None:
        """Lets dimensions shrink that this operator computes over.

        The proof then computes it over the kept indices alone. Where a mean or a norm means
        something else over fewer of them, `change` says so and the report repeats it.
        """
        for labels in dims:
            self.labels.declare(labels, change and f"{self.op} {change}")
            self.kept_only.setdefault(self.node, []).append(labels)

    def broadcast(self, values: Sequence[Value]) -> Value:
        """Ties tensors as they are spread over each other; what is spread itself must stay."""
        outputs: list[Array] = []
        for back in range(-max(map(len, values)), 0):
            carried = [value[back] for value in values if len(value) >= -back]
            widest = max(carried, key=len)
            for labels in carried:
                if len(labels) == len(widest):
                    self.tie(widest, labels)
                else:
                    self.freeze(labels, "broadcasts it")
            outputs.append(widest)
        return tuple(outputs)

    def parts(self, value: Value, dim: int) -> list[Value]:
        """Returns the outputs of an operator that cuts a dimension into runs."""
        outputs, start = [], 0
        for shape in _shapes(self.node):
            run = value[dim][start : start + shape[dim]]
            outputs.append((*value[:dim], run, *value[dim + 1 :]))
            start += shape[dim]
        return outputs

    def unknown(self, what: str = "has no rule") -> Value | list[Value] | None:
        """Fixes all inputs and outputs: removes less, never wrongly."""
        for value in self.tensors():
            for labels in value:
                self.freeze(labels, what)
        shapes = _shapes(self.node)
        reason = f"{self.op} {what} ({self.where})"
        outputs = [tuple(self.labels.fixed(n, reason) for n in shape) for shape in shapes]
        if isinstance(self.node.meta.get("val"), torch.Tensor):
            return outputs[0]
        return outputs or None


Rule: TypeAlias = Callable[[Visit], Value | list[Value] | None]
"""Ties the labels of a node's inputs and returns those of its output."""

_RULES: Final[dict[str, Rule]] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers how an operator carries labels, by 'aten.add.Tensor' or all 'aten.add'.

    An operator without a rule fixes what it touches, so a rule is only ever needed to remove
    more. Use it for your own operators too: `@rule("mylib.myop")`.
    """

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def registered_rules() -> frozenset[tuple[str, Rule]]:
    """Returns all that is registered."""
    return frozenset(_RULES.items())


def rule_for(target: Any) -> Rule | None:
    """Returns the rule of an operator, or None."""
    name = operator_name(target)
    return _RULES.get(name) or _RULES.get(name.rpartition(".")[0])


def operator_name(target: Any) -> str:
    """Returns 'aten.add.Tensor' for an ATen operator, 'operator.getitem' for a Python one."""
    if isinstance(target, OpOverload):
        return str(target)
    if getattr(target, "__module__", "") in ("_operator", operator.__name__):
        return f"operator.{target.__name__}"
    return getattr(target, "__name__", str(target))


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Returns the shape of a node's tensor, or of its first, at the traced batch size."""
    found = node.meta["val"]
    first = found[0] if isinstance(found, (tuple, list)) else found
    return tuple(_size(size) for size in first.shape)


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    found = node.meta.get("val")
    outputs = found if isinstance(found, Sequence) else [found]
    return [
        tuple(_size(n) for n in output.shape)
        for output in outputs
        if isinstance(output, torch.Tensor)
    ]


def _size(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    # A size that the data decides has no hint: any number stands for what cannot shrink.
    return 1 if size.node.hint is None else int(size.node.hint)


def bound_arguments(node: fx.Node) -> dict[str, Any]:
    """Returns a call's arguments by name, with the defaults of the operator's schema."""
    if not isinstance(node.target, OpOverload):
        return dict(node.kwargs)
    schema = node.target._schema.arguments  # noqa: SLF001 (there is no public one)
    bound = {
        argument.name: argument.default_value for argument in schema if argument.has_default_value()
    }
    bound |= {argument.name: arg for argument, arg in zip(schema, node.args, strict=False)}
    return bound | dict(node.kwargs)
