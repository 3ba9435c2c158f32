"""A quantised network for `torch.compile`: oneDNN's integer kernels, without leaving PyTorch.

The graph is written in the operators that PT2E quantisation ends in, `quantized_decomposed` with
constants as numbers: of these Inductor makes integer convolutions and matrix products on x86
(torch/_inductor/fx_passes/quantization.py). Its patterns ask for less than its kernels need, so
what they would get wrong is kept from them: they take the ends of levels for those of a byte,
signed levels for unsigned, every convolution for one that is not transposed, every weight for one
around zero, and a pool between two grids for one on a single grid.
"""

import copy
from collections.abc import Callable
from typing import Final, TypeAlias

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from tersenet.errors import ExportError
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.export.tracing import operand

__all__ = ["compiled", "to_pt2e"]

aten = torch.ops.aten

QUANTIZE_BYTES: Final = torch.ops.quantized_decomposed.quantize_per_tensor.default
DEQUANTIZE_BYTES: Final = torch.ops.quantized_decomposed.dequantize_per_tensor.default
DEQUANTIZE_WEIGHT: Final = torch.ops.quantized_decomposed.dequantize_per_channel.default
LAYERS: Final = {
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.linear.default,
}
"""Operators that Inductor has integer kernels for."""
_BytesGrid: TypeAlias = tuple[float, int, int, int, torch.dtype]
"""Units per level, the level of zero, the ends and the type."""


def compiled(graph: GraphModule) -> Callable[..., Tensor]:
    """Returns a call of the quantised `graph` as `torch.compile` makes it, in integer kernels.

    The first call with a shape compiles it, which takes seconds to a minute and a C++ compiler.

    Raises:
        ExportError: if nothing in `graph` is quantised.
    """
    from torch._inductor import config  # takes a second to load

    fast = torch.compile(to_pt2e(graph))

    def call(*inputs: Tensor) -> Tensor:
        # Only constants match the patterns, only this setting makes weights constant, and only
        # without gradients. As an option of torch.compile it would not reach Dynamo.
        with torch.inference_mode(), config.patch(freezing=True):
            return fast(*inputs)

    return call


def to_pt2e(graph: GraphModule) -> GraphModule:
    """Returns the quantised `graph` in the form of PT2E; `graph` is not changed.

    Use it where `compiled` is too much: to export, or to compile with settings of your own, among
    which `torch._inductor.config.freezing` has to be. Weights of layers that have an integer kernel
    stay levels, all other constants become the reals that they stand for, and activations of more
    than 8 bits stay as they are. Levels are equal but where x / scale and x * (1 / scale), as this
    form has it, round to either side of a half.

    Raises:
        ExportError: if nothing in `graph` is quantised.
    """
    own = copy.deepcopy(graph)
    if not any(node.target in (QUANTIZE, DEQUANTIZE) for node in own.graph.nodes):
        raise ExportError(
            f"{type(graph).__name__} cannot be compiled to integer kernels, it has no integers: "
            "quantise it first."
        )
    for node in own.graph.find_nodes(op="call_function", target=QUANTIZE):
        _rewrite_activation(own, node)
    for node in own.graph.find_nodes(op="call_function", target=DEQUANTIZE):
        if operand(node, 0).op == "get_attr":
            _rewrite_constant(own, node)
    own.delete_all_unused_submodules()
    own.graph.lint()
    own.recompile()
    return own


def _rewrite_activation(module: GraphModule, node: Node) -> None:
    """Quantises to bytes from 0; what has fewer bits saturates on the bytes afterwards."""
    graph = module.graph
    x, low, high = operand(node, 0), operand(node, 3), operand(node, 4)
    if high - low > 255:
        return  # no kernel reads them
    grid = _grid(module, node, low)
    readers = [user for user in node.users if user.target is DEQUANTIZE]
    with graph.inserting_before(node):
        levels = graph.call_function(QUANTIZE_BYTES, (_pooled(graph, x, grid), *grid))
        if high - low < 255:
            # Only the upper end: with a lower one it would be taken for a ReLU6 of reals.
            levels = graph.call_function(aten.clamp_max.default, (levels, high - low))
    for reader in readers:
        with graph.inserting_before(reader):
            own = _grid(module, reader, low)
            _replace(reader, graph.call_function(DEQUANTIZE_BYTES, (levels, *own)))
    _replace(node, levels)


def _pooled(graph: Graph, x: Node, grid: _BytesGrid) -> Node:
    """Where the maxima of levels go to another grid: rounds them to the one that they are on."""
    source = operand(x, 0)
    if x.target is not aten.max_pool2d.default or source.target is not DEQUANTIZE_BYTES:
        return x
    before = source.args[1:]
    if before == grid:
        return x
    return graph.call_function(
        DEQUANTIZE_BYTES, (graph.call_function(QUANTIZE_BYTES, (x, *before)), *before)
    )


def _grid(module: GraphModule, node: Node, low: int) -> _BytesGrid:
    """What follows the operand of an operator on bytes, where `low` is to be level 0."""
    scale, zero_point = (module.get_buffer(str(operand(node, index).target)) for index in (1, 2))
    return (float(scale), int(zero_point) - low, 0, 255, torch.uint8)


def _rewrite_constant(module: GraphModule, node: Node) -> None:
    """Keeps the levels of a weight that an integer kernel multiplies; others become reals."""
    graph = module.graph
    levels, scale, zero_point = (
        None if read is None else module.get_buffer(str(read.target))
        for read in (operand(node, index) for index in range(3))
    )
    assert levels is not None
    assert scale is not None
    name = str(operand(node, 0).target).rpartition(".")[0]
    path, _, own = name.rpartition(".")
    parent = module.get_submodule(path)
    delattr(parent, own)
    with graph.inserting_before(node):
        if not _multiplied(node, levels):
            parent.register_buffer(own, DEQUANTIZE(levels, scale, zero_point, *node.args[3:]))
            _replace(node, graph.get_attr(name))
            return
        tensors = nn.Module()
        parent.add_module(own, tensors)
        # One scale for each output channel is the only form that is looked for.
        tensors.register_buffer("levels", levels)
        tensors.register_buffer("scale", scale.expand(len(levels)).contiguous())
        tensors.register_buffer("zero_point", torch.zeros(len(levels), dtype=torch.int32))
        read = [graph.get_attr(f"{name}.{role}") for role in ("levels", "scale", "zero_point")]
        _replace(node, graph.call_function(DEQUANTIZE_WEIGHT, (*read, 0, -128, 127, torch.int8)))


def _multiplied(node: Node, levels: Tensor) -> bool:
    """Whether all that reads a weight is a layer in integers, and its levels are as these want."""
    around_zero = operand(node, 2) is None and operand(node, 3) == 0 and not operand(node, 4)
    return (
        around_zero
        and levels.dtype is torch.int8
        and all(
            user.target in LAYERS
            and operand(user, 1) is node
            and operand(user, 0).target is DEQUANTIZE_BYTES
            for user in node.users
        )
    )


def _replace(node: Node, new: Node) -> None:
    node.replace_all_uses_with(new)
    read = node.all_input_nodes
    node.graph.erase_node(node)
    for source in read:
        if source.op == "get_attr" and not source.users:
            node.graph.erase_node(source)
