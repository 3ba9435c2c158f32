"""A network run value by value, so that values can be read, and replaced by others."""

import copy
from collections.abc import Iterator, Mapping, Set
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from tersenet.graph.products import named_tensors
from tersenet.graph.reading import evaluating, export, tensors_of

__all__ = ["Program", "outputs_of"]


def outputs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Returns the tensors a network gives in eval mode, without gradients."""
    with evaluating(model), torch.no_grad():
        outputs = model(*inputs)
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


@final
class Program(nn.Module):
    """What a network computes in eval mode: its exported graph, run with its own tensors.

    Values are named as the graph's nodes are. Computed without gradients.
    """

    def __init__(self, model: nn.Module, example: tuple[Tensor, ...]) -> None:
        """Reads a network; its tensors are used, not copied.

        Raises:
            StructureError: if the network cannot be exported.
        """
        super().__init__()
        self.model = model
        self.exported = export(model, example)
        self.instead: Mapping[str, str | None] = {}
        """By value, the earlier value that takes its place; None for zeros."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Program":
        """Copies the tensors; the graph is only read."""
        twin = copy.copy(self)
        twin.__dict__["_modules"] = {"model": copy.deepcopy(self.model, memo)}
        return twin

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        """Returns the network's outputs, with values replaced as `instead` says."""
        return self._run(inputs, frozenset())[0]

    def values(self, names: Set[str], inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Returns the values of these names, with values replaced as `instead` says."""
        return self._run(inputs, names)[1]

    def _run(self, inputs: tuple[Tensor, ...], names: Set[str]) -> tuple[Any, dict[str, Tensor]]:
        run = _Run(self.exported.graph_module, self.instead, names)
        with torch.no_grad():
            outputs = run.run(*self._arguments(inputs))
        return outputs, {name: run.kept[name] for name in names}

    def _arguments(self, inputs: tuple[Tensor, ...]) -> Iterator[Any]:
        signature, names = self.exported.graph_signature, named_tensors(self.exported)
        tensors = tensors_of(self.model)
        given = dict(zip(signature.user_inputs, inputs, strict=True))
        constants = signature.inputs_to_lifted_tensor_constants
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                if node in names:
                    tensor = tensors[names[node]]
                    # A copy of a buffer: forward() may count in it, and reading is no call.
                    yield tensor if isinstance(tensor, nn.Parameter) else tensor.clone()
                elif node.name in constants:
                    yield self.exported.constants[constants[node.name]]
                else:
                    yield given[node.name]


@final
class _Run(fx.Interpreter):
    """One run of a graph."""

    def __init__(
        self, body: fx.GraphModule, instead: Mapping[str, str | None], names: Set[str]
    ) -> None:
        super().__init__(body)
        self._instead = instead
        self._names = names | {source for source in instead.values() if source is not None}
        self.kept: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._instead:
            source = self._instead[n.name]
            # Copies: what follows may work in place.
            value = torch.zeros_like(value) if source is None else self.kept[source].clone()
        if n.name in self._names:
            self.kept[n.name] = value.clone()
        return value
