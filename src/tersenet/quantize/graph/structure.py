"""What of a graph is quantised: which layers (sites) and which activations (values).

Read from the operators alone. A runtime runs a convolution as an integer kernel when all it
reads is dequantised and all it returns is quantised, so values are chosen to close around
integer kernels: what a layer reads, what a convolution returns (after the ReLU that it will
absorb), and sums, products, concatenations and averages of values that are quantised already.
"""

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch.fx import GraphModule, Node

from tersenet.core.types import Skip
from tersenet.errors import QuantizeError
from tersenet.export.qops import QUANTIZE
from tersenet.export.tracing import operand

__all__ = [
    "WeightSite",
    "Value",
    "concatenations",
    "normalise",
    "passes",
    "sites_of",
    "tail",
    "values_of",
]

aten = torch.ops.aten

CONVOLUTIONS: Final = {
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
}
TRANSPOSED: Final = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}
LAYERS: Final = CONVOLUTIONS | TRANSPOSED | {aten.linear.default, aten.embedding.default}
FLOAT: Final = {
    "lstm": "no runtime here has integer kernels for recurrent layers",
    "gru": "no runtime here has integer kernels for recurrent layers",
    "rnn_tanh": "no runtime here has integer kernels for recurrent layers",
    "rnn_relu": "no runtime here has integer kernels for recurrent layers",
    "scaled_dot_product_attention": "a product of two activations",
    "matmul": "a product of two activations",
    "bmm": "a product of two activations",
    "baddbmm": "a product of two activations",
    "einsum": "a product of two activations",
    "conv3d": "no runtime here has integer kernels for three dimensions",
    "conv_transpose3d": "no runtime here has integer kernels for three dimensions",
}
"""Operators that multiply but stay float, by name, and why."""
ACTIVATIONS: Final = {aten.relu.default, aten.relu6.default, aten.hardtanh.default}
"""Clamps that a quantiser's own saturation does."""
JOINS: Final = {aten.add.Tensor, aten.mul.Tensor, aten.cat.default}
POOLS: Final = {aten.adaptive_avg_pool2d.default, aten.avg_pool2d.default}
PASSING: Final = {
    aten.alias.default,
    aten.clone.default,
    aten.constant_pad_nd.default,
    aten.contiguous.default,
    aten.flatten.using_ints,
    aten.max_pool2d.default,
    aten.pad.default,
    aten.permute.default,
    aten.reshape.default,
    aten.slice.Tensor,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
}
"""Operators whose outputs are among their inputs (or zero): the same levels serve both."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class WeightSite:
    """A layer whose weight can be stored as integers."""

    name: str
    """The weight's module, by its qualified name."""
    node: Node
    weight: Node
    bias: Node | None
    axis: int = 0
    """The dimension of its weight that counts output channels."""

    @property
    def table(self) -> bool:
        """Whether the weight is looked up, not multiplied with: stored small, read in float."""
        return self.node.target is aten.embedding.default


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """An activation that is to be stored as integers."""

    name: str
    """After the site that computes it, or the module and the operator."""
    node: Node


def normalise(module: GraphModule) -> GraphModule:
    """Rewrites, in place, a mean over height and width as the pooling that it is."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.mean.dim or operand(node, 0).meta["val"].ndim != 4:
            continue
        if {dim % 4 for dim in operand(node, 1)} != {2, 3} or node.kwargs.get("dtype") is not None:
            continue
        with graph.inserting_before(node):
            pooled = graph.call_function(
                aten.adaptive_avg_pool2d.default, (operand(node, 0), [1, 1])
            )
            flat = graph.call_function(aten.flatten.using_ints, (pooled, 1))
        for new in (pooled, flat):
            new.meta = {k: v for k, v in node.meta.items() if k == "nn_module_stack"}
        kept = operand(node, 2)
        node.replace_all_uses_with(pooled if kept else flat)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()
    return module


def sites_of(module: GraphModule) -> tuple[list[WeightSite], list[Skip]]:
    """Returns the layers that can be quantised, in the order they run, and those that can't.

    Raises:
        QuantizeError: if the network is quantised already.
    """
    if any(node.target is QUANTIZE for node in module.graph.nodes):
        raise QuantizeError("the network is quantised already: start from its float original.")
    sites, skips = [], []
    for node in module.graph.nodes:
        if node.target not in LAYERS:
            kind = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
            if kind in FLOAT:
                skips.append(Skip(_path(node) or node.name, f"{kind}: {FLOAT[kind]}"))
            continue
        table = node.target is aten.embedding.default
        weight, bias = (operand(node, 0), None) if table else (operand(node, 1), operand(node, 2))
        name = _site_name(node, weight)
        if weight.op != "get_attr" or (bias is not None and bias.op != "get_attr"):
            skips.append(Skip(name, "its weight is computed at run time"))
        elif len(weight.users) > 1 or (bias is not None and len(bias.users) > 1):
            skips.append(Skip(name, f"its weight is shared by {len(weight.users)} operations"))
        else:
            axis = int(node.target in TRANSPOSED)
            sites.append(WeightSite(name=name, node=node, weight=weight, bias=bias, axis=axis))
    return sites, _once(skips)


def values_of(module: GraphModule, sites: Sequence[WeightSite]) -> list[Value]:
    """Returns the activations to quantise so that `sites` run as integers, in graph order."""
    layers = {site.node: site for site in sites}
    layers = {node: site for node, site in layers.items() if not site.table}
    chosen: set[Node] = {_root(operand(node, 0)) for node in layers}
    for node in layers:
        read = any(user.target in JOINS | POOLS for user in _readers(tail(node)))
        if node.target in CONVOLUTIONS or read:
            chosen.add(tail(node))
    for node in module.graph.nodes:
        if node.target in POOLS and _root(operand(node, 0)) in chosen:
            chosen.add(tail(node))
        if node.target in JOINS and _joined(node) and _joined(node) <= chosen:
            chosen.add(tail(node))
    named = [(_value_name(node, layers), node) for node in module.graph.nodes if node in chosen]
    seen = Counter[str]()
    values = []
    for name, node in named:
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name}_{seen[name]}"
        values.append(Value(name=unique, node=node))
    return values


def passes(value: Value) -> list[Node]:
    """Returns the operators that hand `value` on unchanged, in graph order."""
    found: list[Node] = []
    queue = [value.node]
    while queue:
        node = queue.pop(0)
        handed = [user for user in node.users if user.target in PASSING and _keeps_zero(user)]
        found += handed
        queue += handed
    return found


def concatenations(values: Sequence[Value]) -> list[set[str]]:
    """Returns the names of values that a concatenation puts side by side, with its own.

    On one range it only copies; on several it would have to compute every level anew.
    """
    names = {value.node: value.name for value in values}
    sets: list[set[str]] = []
    for value in values:
        if value.node.target is not aten.cat.default:
            continue
        joined = {names[node] for node in _joined(value.node) if node in names} | {value.name}
        touching = [joint for joint in sets if joint & joined]
        sets = [joint for joint in sets if not joint & joined] + [joined.union(*touching)]
    return sets


def _root(node: Node) -> Node:
    while node.target in PASSING and _keeps_zero(node):
        node = operand(node, 0)
    return node


def _keeps_zero(node: Node) -> bool:
    if node.target is aten.pad.default:
        return operand(node, 2) not in (None, "constant") or operand(node, 3) in (None, 0)
    if node.target is aten.constant_pad_nd.default:
        return operand(node, 2) in (None, 0)
    return True


def tail(node: Node) -> Node:
    """Returns the clamp that alone reads `node`, else `node`."""
    (user, *others) = node.users or (node,)
    if others or user.target not in ACTIVATIONS:
        return node
    if user.target is aten.hardtanh.default and operand(user, 1) != 0:
        return node
    return user


def _readers(node: Node) -> list[Node]:
    found = list(node.users)
    for user in found:
        if user.target in PASSING:
            found += user.users
    return found


def _joined(node: Node) -> set[Node]:
    """The values that a join reads; none where one is a number or is scaled."""
    operands: Sequence[Any] = node.args[:2]
    if node.target is aten.cat.default:
        operands = operand(node, 0)
    if node.kwargs.get("alpha", 1) != 1:
        return set()
    if not all(isinstance(read, Node) and read.op != "get_attr" for read in operands):
        return set()
    return {_root(read) for read in operands if isinstance(read, Node)}


def _site_name(node: Node, weight: Node) -> str:
    if weight.op == "get_attr":
        return str(weight.target).rpartition(".")[0] or str(weight.target)
    return _path(node) or node.name


def _value_name(node: Node, layers: dict[Node, WeightSite]) -> str:
    source = operand(node, 0) if node.target in ACTIVATIONS else node
    for layer in (node, source):
        if layer in layers:
            return f"{layers[layer].name}.output"
    if node.op == "placeholder":
        alone = sum(other.op == "placeholder" for other in node.graph.nodes) == 1
        return "input" if alone else f"input.{node.name}"
    if source.target is operator.getitem:  # the first of what a batch norm left unfolded returns
        return f"{_path(source) or source.name}.output"
    _, _, name = str(source.target).partition(".")  # aten.add.Tensor
    return ".".join(filter(None, (_path(node), name.partition(".")[0], "output")))


def _path(node: Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack else ""


def _once(skips: Sequence[Skip]) -> list[Skip]:
    return list({skip.site: skip for skip in skips}.values())
