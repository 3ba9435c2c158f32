"""From a module to the graph of operators it runs, with the batch left open."""

import copy
import math
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen

from tersenet.errors import ExportError
from tersenet.graph.reading import export, quiet

__all__ = ["BATCH_NORM", "bytes_per_sample", "exported", "operand", "refuse_state", "trace"]

BATCH_NORM: Final = torch.ops.aten._native_batch_norm_legit_no_training.default
"""What batch norm in eval mode is traced as; of the three tensors it returns the first counts."""


def exported(model: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """Returns the program of a copy of `model` in eval mode, its batch size left open.

    Raises:
        StructureError: if the network cannot be read as a graph for any batch size.
    """
    own: nn.Module = copy.deepcopy(model)
    own.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return export(own, example, any_batch=True)


def trace(model: nn.Module, example: tuple[Tensor, ...]) -> GraphModule:
    """Returns `model` as a graph of operators on one tensor out, independent of `model`.

    Unlike the module of an exported program it takes positional tensors, has no guards, and
    may be copied, moved and put in eval mode like any module.

    Raises:
        StructureError: as `exported`.
        ExportError: if the network does not return a single tensor, or depends on its last call.
    """
    program = exported(model, example)
    with quiet():
        # Functional: `x += y` and inplace ReLUs become operators with a result of their own.
        program = program.run_decompositions({})
        refuse_state(program, type(model).__name__)
        module = program.module(check_guards=False)
    graph = module.graph
    if program.graph_signature.buffers_to_mutate:
        _forget(module)
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
    out = graph.output_node()
    (results,) = out.args
    if not isinstance(results, tuple | list) or len(results) != 1:
        count = len(results) if isinstance(results, tuple | list) else 1
        raise ExportError(
            f"{type(model).__name__} returns {count} tensors where one is due: wrap it in a module "
            "that returns the one to compress."
        )
    out.args = (results[0],)
    graph.set_codegen(CodeGen())
    plain = GraphModule(module, graph, class_name=type(model).__name__)
    return plain.eval()


def refuse_state(program: ExportedProgram, name: str) -> None:
    """Raises ExportError where a network's output depends on what its last call has left.

    A counter or a running mean that nothing returned depends on is no harm: a file goes without.

    Args:
        program: the network, in functional form.
        name: of its class.
    """
    signature = program.graph_signature
    buffers = signature.inputs_to_buffers
    kept = set(signature.buffers_to_mutate.values())
    nodes = {node.name: node for node in program.graph.nodes}
    pending = [nodes[output] for output in signature.user_outputs if output in nodes]
    seen: set[Node] = set()
    while kept and pending:
        node = pending.pop()
        if buffers.get(node.name) in kept:
            raise ExportError(
                f"{name} computes its output with '{buffers[node.name]}', which forward() changes "
                "in eval mode too, and a file keeps nothing between calls: change it in training "
                "alone."
            )
        pending += [source for source in node.all_input_nodes if source not in seen]
        seen.update(node.all_input_nodes)


def _forget(module: GraphModule) -> None:
    """Takes out what is only written back to buffers, for the next call."""
    graph = module.graph
    for node in list(graph.nodes):
        written = node.args[0] if node.target is torch.ops.aten.copy_.default else None
        if isinstance(written, Node) and written.op == "get_attr":
            graph.erase_node(node)
    graph.eliminate_dead_code()
    read = {node.target for node in graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in module.named_buffers() if name not in read]:
        path, _, own = name.rpartition(".")
        delattr(module.get_submodule(path), own)


def operand(node: Node, index: int) -> Any:
    """Returns an operator's argument by position: None where it is left out."""
    return node.args[index] if index < len(node.args) else None


def bytes_per_sample(node: Node) -> int:
    """Returns what the tensors that a traced node returns take for each sample of the batch.

    Zero where that is not known, and for parameters, which are there anyway.
    """
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else (value,)
    tensors = [value for value in values if isinstance(value, Tensor)]
    if node.op in ("get_attr", "placeholder"):  # of an exported program, parameters are the latter
        tensors = [
            tensor for tensor in tensors if not all(isinstance(size, int) for size in tensor.shape)
        ]
    return sum(math.prod(map(_of_one, tensor.shape)) * tensor.element_size() for tensor in tensors)


def _of_one(size: int | torch.SymInt) -> int:
    """A size as it is with one sample: the batch is the only one left open."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
