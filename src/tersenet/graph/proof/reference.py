"""The original with removed units zeroed: what a smaller network must equal.

Where a norm or a mean runs over the units, zeros would count in its statistics. Those operators
alone are computed on the kept indices, as the smaller network declares; all else is the original.
A weight that forward() computes is computed whole, of the original's parameters, and zeroed then.
"""

import copy
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from tersenet.core.types import Edit, EditKind
from tersenet.errors import StructureError
from tersenet.graph.computed import of_parameters
from tersenet.graph.labels import Value
from tersenet.graph.products import from_inputs, is_product
from tersenet.graph.reading import tensors_of, twin
from tersenet.graph.routes.constants import fit
from tersenet.graph.routes.program import labels_in, module_of
from tersenet.graph.walk import Remainder, Walk

__all__ = ["masked", "over_kept"]


def masked(before: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """Returns a copy of a network with the entries zeroed that slices remove.

    Raises:
        StructureError: if an edit is no slice of the network.
    """
    own = twin(before)
    tensors = tensors_of(own)
    kept: dict[tuple[str, int], Tensor] = {}
    for edit in edits:
        if edit.kind != EditKind.SLICE or edit.site not in tensors:
            raise StructureError(f"'{edit.kind} {edit.site}' cannot be proved: it is no slice.")
        key = (edit.site, edit.data["dim"])
        size = tensors[edit.site].shape[edit.data["dim"]]
        # A second slice of a dimension counts from what the first one kept.
        kept[key] = kept.get(key, torch.arange(size))[torch.tensor(edit.data["keep"])]
    with torch.no_grad():
        for (name, dim), indices in kept.items():
            tensor = tensors[name]
            gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
            gone[indices] = False
            tensor.index_fill_(dim, gone.nonzero().flatten().to(tensor.device), 0)
    return own


def over_kept(before: nn.Module, walk: Walk, edits: Sequence[Edit]) -> nn.Module:
    """Returns a network with units zeroed, whose statistics are taken over the kept indices.

    Args:
        before: the original.
        walk: the original's program, on inputs of the size to come.
        edits: the slices.
    """
    return _OverKept(before, walk, Remainder.of(walk, edits)).eval()


@final
class _OverKept(nn.Module):
    """Runs a program node by node."""

    def __init__(self, before: nn.Module, walk: Walk, remainder: Remainder) -> None:
        super().__init__()
        self.module = module_of(walk, before)
        self._walk, self._remainder = walk, remainder

    def __deepcopy__(self, memo: dict[int, Any]) -> "_OverKept":
        return _OverKept(copy.deepcopy(self.module, memo), self._walk, self._remainder)

    def forward(self, *inputs: Tensor) -> Any:
        return _Interpreter(self.module, self._walk, self._remainder).run(*inputs)


@final
class _Interpreter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, walk: Walk, remainder: Remainder) -> None:
        super().__init__(module)
        self._remainder, self._labels = remainder, labels_in(module, walk)
        shrinking = {
            node.name
            for node, dims in walk.kept_only.items()
            if any(remainder.size(labels) != len(labels) for labels in dims)
        }
        fitted = copy.deepcopy(module.graph)
        self._fitted: dict[str, fx.Node] = {}
        own = {node.name: node for node in module.graph.nodes}
        for node in fitted.nodes:
            if node.name in shrinking:
                self._fitted[node.name] = node
                fit(
                    node, remainder, lambda value: self._labels(own.get(getattr(value, "name", "")))
                )
        self._own = own
        self._inner = {node.name for node in of_parameters(walk.program)}
        """Of the calls that a weight is made of: they read parameters as they are."""
        self._between = _between_parameters(walk)
        self._zeroed: dict[fx.Node, Any] = {}

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        if n.name not in self._inner:
            return map_arg(n.args, self._masked), map_arg(n.kwargs, self._masked)
        if is_product(n):
            return map_arg(n.args, self._factor), map_arg(n.kwargs, self._factor)
        return super().fetch_args_kwargs_from_env(n)

    def _masked(self, node: fx.Node) -> Any:
        """Returns a value, that of a parameter with zeros for what is removed."""
        own, x = self._own[node.name], self.env[self._own[node.name]]
        if own.op != "get_attr" and own.name not in self._inner:
            return x
        if own not in self._zeroed:  # one for all readers, as some write into it
            self._zeroed[own] = self._without(x, self._labels(own))
        return self._zeroed[own]

    def _factor(self, node: fx.Node) -> Any:
        """Returns a factor of a product of parameters, zeroed where its units are its own."""
        own = self._own[node.name]
        value = self._labels(own)
        if isinstance(value, tuple):
            value = tuple(x if self._between[x].all() else np.empty(0, int) for x in value)
        return self._without(self.env[own], value)

    def _without(self, x: Any, value: Any) -> Any:
        if not isinstance(x, Tensor) or not isinstance(value, tuple):
            return x
        for dim, labels in enumerate(value):
            if self._remainder.size(labels) != len(labels):
                kept = torch.from_numpy(self._remainder.kept(labels)).to(x.device)
                x = x.new_zeros(x.shape).index_copy(dim, kept, x.index_select(dim, kept))
        return x

    def run_node(self, n: fx.Node) -> Any:
        node = self._fitted.get(n.name)
        if node is None:
            return super().run_node(n)
        call: Any = node.target
        args: Any = map_arg(node.args, self._kept)
        kwargs: Any = map_arg(node.kwargs, self._kept)
        found, labels = call(*args, **kwargs), self._labels(n)
        if isinstance(labels, list):
            return tuple(self._spread(x, dims) for x, dims in zip(found, labels, strict=True))
        return self._spread(found, labels)

    def _kept(self, node: fx.Node) -> Any:
        own = self._own[node.name]
        x, value = self.env[own], self._labels(own)
        if isinstance(x, Tensor) and isinstance(value, tuple):
            for dim, labels in enumerate(value):
                if self._remainder.size(labels) != len(labels):
                    x = x.index_select(dim, torch.from_numpy(self._remainder.kept(labels)))
        return x

    def _spread(self, x: Tensor, value: Value) -> Tensor:
        for dim, labels in enumerate(value):
            if self._remainder.size(labels) != len(labels):
                shape = [*x.shape[:dim], len(labels), *x.shape[dim + 1 :]]
                kept = torch.from_numpy(self._remainder.kept(labels))
                x = x.new_zeros(shape).index_copy(dim, kept, x)
        return x


def _between_parameters(walk: Walk) -> Bool[np.ndarray, " label"]:
    """Returns for each label whether no activation carries it, such as the rank of two factors."""
    roots = walk.labels.roots()
    carried = np.zeros(len(roots), dtype=bool)
    for node in from_inputs(walk.program):
        found = walk.values.get(node)
        for value in found if isinstance(found, list) else [found]:
            for labels in value or ():
                carried[roots[labels]] = True
    return ~carried[roots]
