"""The second route: the exported program itself, its sizes derived anew, as a module.

Taken where the user's own `forward` holds sizes that no longer fit. The module has the
parameters under their own names, trains (dropout and batch norm follow `train()`), takes the
structure of inputs and outputs that the original took, and any batch size that it took.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, final

from torch import Tensor, fx, nn
from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen

from tersenet.core.types import Edit
from tersenet.graph.reading import quiet, tensors_of
from tersenet.graph.routes.constants import fit
from tersenet.graph.visit import bound_arguments, operator_name
from tersenet.graph.walk import Remainder, Walk

__all__ = ["labels_in", "module_of", "rebuilt"]

_MODES: Final = ("training", "train")
"""What operators call the flag that `train()` switches."""


@final
class _Signature(_PyTreeCodeGen):
    """How a module takes its inputs and returns its outputs; never changed, so never copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Signature":
        return self


class _Program(GraphModule):
    """An exported program as a module."""

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphModule:
        for spec in (self._in_spec, self._out_spec):  # never changed, so never copied
            memo[id(spec)] = spec
        return super().__deepcopy__(memo)


def rebuilt(model: nn.Module, walk: Walk, edits: Sequence[Edit]) -> GraphModule:
    """Returns the program for the sizes that are left, with the whole tensors of `model`.

    Raises:
        StructureError: if the edits would take apart what belongs together.
    """
    remainder = Remainder.of(walk, edits)
    module = module_of(walk, model)
    values = labels_in(module, walk)
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            fit(node, remainder, values)
    module.recompile()
    return module


def module_of(walk: Walk, model: nn.Module) -> GraphModule:
    """Returns the program that was walked as a module, with the tensors of `model`."""
    with quiet():
        module = walk.program.module(check_guards=False)
    graph = module.graph
    for node in list(graph.nodes):
        name = operator_name(node.target)
        if node.target == "_guards_fn" or name.startswith("aten._assert_tensor_metadata"):
            graph.erase_node(node)
    _follow_mode(graph)
    codegen: Any = graph._codegen  # noqa: SLF001 (there is no public one)
    graph.set_codegen(_Signature(codegen.pytree_info))
    plain = _Program(module, graph, class_name=type(model).__name__)
    own = tensors_of(model)
    for prefix, part in plain.named_modules():
        for store in (part._parameters, part._buffers):  # noqa: SLF001 (setattr would re-register)
            for name in store:
                path = f"{prefix}.{name}" if prefix else name
                if path in own:
                    found: Any = store
                    found[name] = own[path]
    for node in graph.nodes:  # fake tensors hold on to the exporter's state
        node.meta = {
            key: node.meta[key] for key in ("stack_trace", "nn_module_stack") if key in node.meta
        }
    return plain.train(model.training)


def labels_in(module: GraphModule, walk: Walk) -> Callable[[Any], Any]:
    """Returns a function from the nodes of such a module to the labels of their values."""
    by_name = {node.name: value for node, value in walk.values.items()}
    names = walk.tensors

    def values(node: Any) -> Any:
        if not isinstance(node, fx.Node):
            return None
        if node.op == "get_attr":
            name = str(node.target)
            if name in names and walk.first_name(name) in walk.owned:
                return walk.owned[walk.first_name(name)]
            return _constant(module, name, walk)
        return by_name.get(node.name)

    return values


def _constant(module: GraphModule, name: str, walk: Walk) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, Tensor):
        return None
    return tuple(walk.labels.fixed(size, "it is a constant") for size in found.shape)


def _follow_mode(graph: fx.Graph) -> None:
    """Has operators that train otherwise than they predict read the module's own flag."""
    first = next(iter(graph.nodes))
    mode: fx.Node | None = None
    for node in list(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        for place, argument in enumerate(schema.arguments):
            if argument.name in _MODES and bound_arguments(node)[argument.name] is False:
                if mode is None:
                    with graph.inserting_before(first):
                        mode = graph.create_node("get_attr", "training", name="is_training")
                if place < len(node.args):
                    node.update_arg(place, mode)
                else:
                    node.update_kwarg(argument.name, mode)
