"""The second way to a graph: the operators that a network runs on its example, written down.

For networks that `torch.export` cannot read, because forward() asks what data is, or behaves
otherwise while it is being exported. What is written down is one path through forward(), with the
sizes of the example; whether it says enough, proofs on other inputs decide.
"""

import operator
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, final

import torch
from torch import Tensor, fx, nn
from torch._export.verifier import TrainingIRVerifier
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tersenet.graph.reading import UnreadableError, at_least_two, evaluating, quiet, twin

__all__ = ["recorded"]

_KINDS: Final = {
    "p": InputKind.PARAMETER,
    "b": InputKind.BUFFER,
    "c": InputKind.CONSTANT_TENSOR,
    "x": InputKind.USER_INPUT,
}


def recorded(
    model: nn.Module,
    example: tuple[Tensor, ...],
    error: UnreadableError | None,
    *,
    mode: Callable[[nn.Module], AbstractContextManager[nn.Module]] = evaluating,
) -> ExportedProgram:
    """Returns what the network does with its example, as a program for inputs of these sizes.

    Args:
        model: the network.
        example: its inputs.
        error: why it cannot be exported; None where what goes unused does not matter.
        mode: what puts the network in the mode to read.

    Raises:
        UnreadableError: `error`, if a parameter goes unused: what else reads the values on
            another path would not be seen.
    """
    inputs = tuple(tensor.clone() for tensor in at_least_two(example))
    own = twin(model)  # its forward() runs for real, and may keep what it saw
    with mode(own), torch.no_grad(), quiet():
        recorder = _Recorder(own, inputs)
        with recorder:
            outputs = own(*inputs)
        program = recorder.program(outputs)
    used = {node for node in program.graph.nodes if node.users}
    places = program.graph_signature.inputs_to_parameters
    for node in program.graph.nodes:
        if error is not None and node.name in places and node not in used:
            raise UnreadableError(
                f"{str(error).rstrip('.')}; or give an example that uses all of the network, "
                f"'{places[node.name]}' too: then one path through forward() will do."
            ) from error
    return program


@final
class _Recorder(TorchDispatchMode):
    """Adds a node for each operator that runs."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        self._alive: list[Any] = []  # an identity is of use while its tensor lives
        self._specs: dict[fx.Node, InputSpec] = {}
        self._tensors: dict[str, Tensor] = {}
        self.constants: dict[str, Any] = {}
        self._inputs = pytree.tree_flatten((inputs, {}))[1]
        for kind, own in (
            ("p", dict(model.named_parameters())),
            ("b", dict(model.named_buffers())),
            ("x", {f"inputs_{i}": tensor for i, tensor in enumerate(inputs)}),
        ):
            for name, tensor in own.items():
                self._placeholder(kind, name, tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        leaves, _ = pytree.tree_flatten(found)
        if not any(isinstance(leaf, Tensor) for leaf in leaves):
            return found  # a number: the path follows it
        own_args, own_kwargs = pytree.tree_map(self._node, (args, kwargs))
        node = self.graph.call_function(func, own_args, own_kwargs)
        node.meta["stack_trace"] = "".join(traceback.format_stack()[:-1])
        node.meta["val"] = pytree.tree_map(_shape, found)
        if isinstance(found, Tensor):
            self._known(found, node)
        elif isinstance(found, (tuple, list)):
            for place, value in enumerate(found):
                if isinstance(value, Tensor):
                    part = self.graph.call_function(operator.getitem, (node, place))
                    part.meta["val"] = _shape(value)
                    self._known(value, part)
        return found

    def program(self, outputs: Any) -> ExportedProgram:
        """Returns what was written down, ending in `outputs`."""
        leaves, spec = pytree.tree_flatten(outputs)
        results = tuple(self._node(leaf) for leaf in leaves)
        self.graph.output(results)
        places = [node for node in self.graph.nodes if node.op == "placeholder"]
        module = fx.GraphModule({}, self.graph)
        signature = ExportGraphSignature(
            input_specs=[self._specs[node] for node in places],
            output_specs=[
                OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(value.name), None)
                for value in results
                if isinstance(value, fx.Node)
            ],
        )
        calls = ModuleCallSignature([], [], self._inputs, spec)
        return ExportedProgram(
            module,
            self.graph,
            signature,
            self._tensors,
            {},
            [ModuleCallEntry("", calls)],
            constants=self.constants,
            verifiers=[TrainingIRVerifier],
        )

    def _node(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:  # made where no operator was seen
            self._placeholder("c", f"constant_{len(self.constants)}", value)
        return self._nodes[id(value)]

    def _placeholder(self, kind: str, name: str, tensor: Tensor) -> None:
        first = next(
            (tensor for tensor, spec in self._specs.items() if spec.kind is _KINDS["x"]), None
        )
        own = f"{kind}_{name.replace('.', '_')}" if kind != "x" else name
        if kind == "c" and first is not None:
            with self.graph.inserting_before(first):
                node = self.graph.placeholder(own)
        else:
            node = self.graph.placeholder(own)
        node.meta["val"] = _shape(tensor)
        target = None if kind == "x" else name
        persistent = True if kind == "b" else None
        self._specs[node] = InputSpec(_KINDS[kind], TensorArgument(node.name), target, persistent)
        if kind in "pb":
            self._tensors[name] = tensor
        elif kind == "c":
            self.constants[name] = tensor.detach()
        self._known(tensor, node)

    def _known(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)


def _shape(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value
