"""Batch norm folded into the convolution or linear layer before it.

In eval mode batch norm is y = g (x - mean) / sqrt(var + eps) + b, an affine map per channel, so
with s = g / sqrt(var + eps) it is the layer whose weight is s W and whose bias is
s (bias - mean) + b (Jacob et al. 2017, arXiv:1712.05877, section 3.2).
"""

from operator import attrgetter
from typing import Final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from tersenet.export.trace import BATCH_NORM, operand

__all__ = ["fold_batch_norm", "set_tensor", "sweep", "tensor_of"]

aten = torch.ops.aten

_LAYERS: Final = {
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.default,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.linear.default,
}


def fold_batch_norm(module: GraphModule) -> GraphModule:
    """Folds every batch norm that alone reads a layer's output, in place; returns `module`.

    Others, as those before a convolution, stay. A layer without bias gets one.
    """
    for norm in list(module.graph.nodes):
        if norm.target is not BATCH_NORM:
            continue
        layer = operand(norm, 0)
        if not (isinstance(layer, Node) and layer.target in _LAYERS and len(layer.users) == 1):
            continue
        weight, bias = operand(layer, 1), operand(layer, 2)
        if not _owned(weight) or (bias is not None and not _owned(bias)):
            continue  # computed, or shared with a layer that has another batch norm or none
        if layer.target is aten.linear.default and layer.meta["val"].ndim != 2:
            continue  # batch norm's channel is dimension 1, a linear layer's the last
        _fold(module, layer, norm)
    sweep(module)
    return module


def tensor_of(module: nn.Module, node: Node) -> Tensor:
    """Returns the parameter or buffer that a get_attr node reads."""
    return attrgetter(str(node.target))(module)


def set_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Registers `value` under the dotted `name`: floats as parameters, integers as buffers."""
    path, _, own = name.rpartition(".")
    parent = module.get_submodule(path)
    if value.is_floating_point():
        setattr(parent, own, nn.Parameter(value, requires_grad=False))
    else:
        parent.register_buffer(own, value)


def sweep(module: GraphModule) -> None:
    """Removes tensors and submodules that no node reads, and compiles the graph."""
    graph = module.graph
    # Custom operators are opaque, so dead get_attr nodes are all that can be dead here.
    graph.eliminate_dead_code()
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    for name in [n for n, _ in (*module.named_parameters(), *module.named_buffers())]:
        if name not in read:
            path, _, own = name.rpartition(".")
            delattr(module.get_submodule(path), own)
    module.delete_all_unused_submodules()
    graph.lint()
    module.recompile()


def _owned(node: object) -> bool:
    return isinstance(node, Node) and node.op == "get_attr" and len(node.users) == 1


def _fold(module: GraphModule, layer: Node, norm: Node) -> None:
    def values(node: Node, index: int) -> Tensor | None:
        found = operand(node, index)
        return None if found is None else tensor_of(module, found).detach().double()

    weight, bias = tensor_of(module, operand(layer, 1)).detach(), values(layer, 2)
    gain, shift, mean, variance = (values(norm, index) for index in (1, 2, 3, 4))
    if mean is None or variance is None:
        return  # statistics of the batch: not an affine map
    scale = torch.rsqrt(variance + operand(norm, 6))
    scale = scale if gain is None else scale * gain
    shifted = (-mean if bias is None else bias - mean) * scale
    folded = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
    weight_name = str(operand(layer, 1).target)
    set_tensor(module, weight_name, folded.to(weight.dtype))
    name = str(operand(layer, 2 if bias is not None else 1).target)
    bias_name = name if bias is not None else ".".join((*name.split(".")[:-1], "bias"))
    total = shifted if shift is None else shifted + shift
    set_tensor(module, bias_name, total.to(weight.dtype))
    if bias is None:
        with module.graph.inserting_before(layer):
            layer.args = (*layer.args[:2], module.graph.get_attr(bias_name), *layer.args[3:])
    for first in list(norm.users):  # getitem 0: the normalised values, of the operator's three
        first.replace_all_uses_with(layer)
        module.graph.erase_node(first)
    module.graph.erase_node(norm)
