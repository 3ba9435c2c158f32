"""The places that compute: convolutions and matrix products, found in an exported graph.

Counted from the shapes of the nodes, so a network costs the same whatever modules it is
written in.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import fx

from tersenet.graph.rules.einsum import filters, letters
from tersenet.graph.rules.recurrent import CELLS, cells, is_recurrent
from tersenet.graph.visit import operator_name, shape_of

__all__ = [
    "LEVELS",
    "Product",
    "from_inputs",
    "is_product",
    "named_and_read",
    "named_tensors",
    "products",
    "sample_count",
]

LEVELS: Final = ".levels"
"""How the name of a buffer ends that holds integer-coded weights."""

_CONVOLUTIONS: Final = {f"aten.conv{n}d": f"conv{n}d" for n in (1, 2, 3)}
_TRANSPOSED: Final = {f"aten.conv_transpose{n}d": f"transposed conv{n}d" for n in (1, 2, 3)}
_MATRIX: Final = {
    "aten.linear": (0, 1, 0),
    "aten.addmm": (1, 2, 1),
    "aten.mm": (0, 1, 1),
    "aten.matmul": (0, 1, 1),
    "aten.bmm": (0, 1, 2),
    "aten.baddbmm": (1, 2, 2),
}
"""The positions of the two factors among the arguments; the second's dimension of outputs."""
_EINSUM: Final = "aten.einsum"
_ATTENTION: Final = "aten.scaled_dot_product_attention"


@final
@dataclass(frozen=True)
class Product:
    """One node that multiplies and accumulates."""

    node: fx.Node
    kind: str
    macs: int
    """Of the whole traced batch."""
    weight: fx.Node | None
    """Of a product with a parameter, the argument that holds it."""
    tensor: str | None
    """The parameter or buffer that the weight comes from."""
    site: str
    filter_dim: int
    """The dimension of the weight that makes outputs."""
    stored: tuple[str, ...]
    """The parameters and buffers that weight and bias come from."""


def products(program: torch.export.ExportedProgram) -> list[Product]:
    """Returns every product in the order of execution."""
    names = named_tensors(program)
    derived = from_inputs(program)
    found = []
    for node in program.graph.nodes:
        if node.op == "call_function" and (counted := _count(node, derived)):
            kind, macs, factor = counted
            weight = None if factor is None or factor in derived else factor
            tensor = None if weight is None else _origin(weight, names)
            if weight is None and kind == "linear":
                kind = "matmul"
            site = _module(node) if tensor is None else tensor.removesuffix(LEVELS)
            site = site.removesuffix(".weight")
            own = [arg for arg in node.all_input_nodes if arg not in derived]
            stored = tuple(dict.fromkeys(itertools.chain(*(_ancestors(a, names) for a in own))))
            dim = _filter_dim(node, weight) or 0
            found.append(Product(node, kind, macs, weight, tensor, site, dim, stored))
        elif is_recurrent(node):
            found.extend(_recurrent(node, names))
    return found


def is_product(node: fx.Node) -> bool:
    """Returns whether a node multiplies and accumulates."""
    name = _form(node)
    return name in _CONVOLUTIONS or name in _TRANSPOSED or name in _MATRIX or name == _EINSUM


def sample_count(program: torch.export.ExportedProgram) -> int:
    """Returns how many samples the traced batch holds."""
    user = set(program.graph_signature.user_inputs)
    inputs = (node for node in program.graph.nodes if node.op == "placeholder")
    return next((shape_of(node)[0] for node in inputs if node.name in user and _has_batch(node)), 1)


def named_tensors(program: torch.export.ExportedProgram) -> dict[fx.Node, str]:
    """Returns the placeholders of parameters and buffers, with their qualified names."""
    signature = program.graph_signature
    known: Mapping[str, str] = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    nodes = (node for node in program.graph.nodes if node.op == "placeholder")
    return {node: known[node.name] for node in nodes if node.name in known}


def named_and_read(program: torch.export.ExportedProgram) -> set[str]:
    """Returns the names of the parameters and buffers that a program reads."""
    return {name for node, name in named_tensors(program).items() if node.users}


def from_inputs(
    program: torch.export.ExportedProgram, *, also: Set[fx.Node] = frozenset()
) -> set[fx.Node]:
    """Returns the nodes that are computed from the network's inputs, or from those in `also`."""
    user = set(program.graph_signature.user_inputs)
    derived: set[fx.Node] = set(also)
    for node in program.graph.nodes:
        if node.name in user or not derived.isdisjoint(node.all_input_nodes):
            derived.add(node)
    return derived


def _has_batch(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor) and node.meta["val"].ndim > 0


def _count(node: fx.Node, derived: Set[fx.Node]) -> tuple[str, int, fx.Node | None] | None:
    """Returns (kind, multiply-accumulates, the second factor), or None for other nodes."""
    name = _form(node)
    args: Any = node.args
    if name in _CONVOLUTIONS or name in _TRANSPOSED:
        x, weight = shape_of(args[0]), shape_of(args[1])
        # conv: N * Ho * Wo * Co * (Ci / groups) * Kh * Kw; transposed: by input positions
        positions = shape_of(node) if name in _CONVOLUTIONS else x
        rank = len(weight) - 2
        batch = math.prod(positions[: -rank - 1])
        macs = batch * math.prod(positions[-rank:]) * math.prod(weight)
        groups = x[-rank - 1] // weight[1] if name in _CONVOLUTIONS else 1
        prefix = "" if groups == 1 else "depthwise " if weight[1] == 1 else "grouped "
        return prefix + (_CONVOLUTIONS | _TRANSPOSED)[name], macs, args[1]
    if name in _MATRIX:
        left, right = (args[i] for i in _MATRIX[name][:2])
        return "linear", math.prod(shape_of(node)) * shape_of(left)[-1], right
    if name == _EINSUM:
        return _einsum(node, derived)
    if name == _ATTENTION:
        query, key, value = (shape_of(node) for node in args[:3])
        pairs = math.prod(query[:-1]) * key[-2]
        return "attention", pairs * (query[-1] + value[-1]), None
    return None


def _form(node: fx.Node) -> str:
    """Returns the operator without its overload; convolutions below autograd by their form."""
    name = operator_name(node.target).rpartition(".")[0]
    if name != "aten.convolution":
        return name
    weight, transposed = node.args[1], node.args[6]
    assert isinstance(weight, fx.Node)
    return f"aten.conv{'_transpose' if transposed else ''}{len(shape_of(weight)) - 2}d"


def _recurrent(node: fx.Node, names: Mapping[fx.Node, str]) -> Iterator[Product]:
    """Yields the matrices of a recurrent layer: each multiplies once for each step and sample."""
    x: Any = node.args[0]
    positions, kind = math.prod(shape_of(x)[:2]), CELLS[operator_name(node.target)]
    for cell in cells(node):
        for weight in cell.weights:
            tensor = _origin(weight, names)
            bias = dict(zip((cell.reads, cell.repeats), cell.biases, strict=False)).get(weight)
            own = [weight] if bias is None else [weight, bias]
            stored = tuple(dict.fromkeys(itertools.chain(*(_ancestors(a, names) for a in own))))
            macs = positions * math.prod(shape_of(weight))
            yield Product(node, kind, macs, weight, tensor, tensor or node.name, 0, stored)


def _einsum(node: fx.Node, derived: Set[fx.Node]) -> tuple[str, int, fx.Node | None]:
    """Counts one product for each setting of all letters."""
    found: Any = node.args[1]
    factors: list[fx.Node] = list(found)
    reads, _ = letters(node, [len(shape_of(factor)) for factor in factors])
    sizes: dict[str, int] = {}
    for shape, own in zip(map(shape_of, factors), reads, strict=True):
        for letter, size in zip(own, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    own = (
        factor
        for factor in factors
        if factor not in derived and _filter_dim(node, factor) is not None
    )
    return "linear", math.prod(sizes.values()), next(own, None)


def _filter_dim(node: fx.Node, weight: fx.Node | None) -> int | None:
    name = _form(node)
    if name == _EINSUM and weight is not None:
        return filters(node, weight)
    return 1 if name in _TRANSPOSED else _MATRIX.get(name, (0, 1, 0))[2]


def _origin(weight: fx.Node, names: Mapping[fx.Node, str]) -> str | None:
    """Returns the tensor that a weight is computed from, through casts or dequantisation."""
    found = list(_ancestors(weight, names))
    own = [name for name in found if name.removesuffix(LEVELS).rpartition(".")[2] == "weight"]
    return next(iter(own or found), None)


def _ancestors(node: fx.Node, names: Mapping[fx.Node, str]) -> Iterator[str]:
    if node in names:
        yield names[node]
    for source in node.all_input_nodes:
        yield from _ancestors(source, names)


def _module(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return list(stack.values())[-1][0] or node.name
