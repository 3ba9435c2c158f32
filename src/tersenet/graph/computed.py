"""Weights that a forward() computes from parameters, such as one divided by its own length.

Zeroing parameters is then not zeroing units: what is left of such a weight changes with what is
taken from it. The proof computes it from the original parameters and zeroes the result.
"""

from collections.abc import Set
from typing import Final

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from tersenet.graph.products import from_inputs, named_tensors
from tersenet.graph.visit import operator_name

__all__ = ["computes", "length_left", "lengths", "of_parameters"]

_MOVES: Final = """
    alias cat chunk clone concat contiguous copy detach embedding expand expand_as flatten flip
    index index_select lift_fresh lift_fresh_copy mT movedim narrow numpy_T permute repeat
    repeat_interleave reshape roll select slice split split_with_sizes squeeze stack swapaxes
    sym_numel sym_size t tile to _to_copy transpose type_as unbind unflatten unsqueeze view
    view_as zeros_like _assert_tensor_metadata _unsafe_view
""".split()  # noqa: SIM905 (fifty words to a line read better)
"""What leaves every number as it is."""


def computes(node: fx.Node) -> bool:
    """Returns whether a call makes new numbers of what it reads."""
    name = operator_name(node.target)
    kind, _, rest = name.partition(".")
    moves = kind == "operator" or rest.partition(".")[0] in _MOVES
    return bool(node.all_input_nodes) and not moves


def of_parameters(program: ExportedProgram) -> Set[fx.Node]:
    """Returns the calls that depend on parameters alone: what weights are made of.

    Numbers that forward() makes from nothing are not among them.
    """
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    made = {node for node in calls if not node.all_input_nodes}
    derived = from_inputs(program, also=made)
    return {node for node in calls if node not in derived}


def lengths(program: ExportedProgram) -> dict[str, str]:
    """Returns the parameters that `weight_norm` takes lengths of, each with that of its length."""
    names = named_tensors(program)
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    norms = (call for call in calls if operator_name(call.target).startswith("aten._weight_norm."))
    pairs = (norm.args[:2] for norm in norms)
    return {names[v]: names[g] for v, g in pairs if v in names and g in names}


def length_left(g: Tensor, whole: Tensor, left: Tensor) -> Tensor:
    """Returns the length that keeps g · v / |v| as it is in what is left of v.

    Args:
        g: the lengths, of size 1 in the dimensions they are taken over, or one for all.
        whole: v of the filters that are left, with all it reads.
        left: v of the filters and of what they read that is left.
    """
    dims = [dim for dim in range(whole.ndim) if g.ndim == 0 or g.shape[dim] == 1]
    before, after = (
        torch.linalg.vector_norm(weight.detach().double(), dim=dims, keepdim=g.ndim > 0)
        for weight in (whole, left)
    )
    return (g.detach() * after / before).to(g.dtype)
