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
        if norm.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        layer = norm.args[0]
        if not (isinstance(layer, Node) and layer.target in _LAYERS and len(layer.users) == 1):
            continue
        weight, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None  # noqa: PLR2004
        if not _owned(weight) or (bias is not None and not _owned(bias)):
            continue  # computed, or shared with a layer that has another batch norm or none
        if layer.target is aten.linear.default and layer.meta["val"].ndim != 2:  # noqa: PLR2004
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
    weight_node = layer.args[1]
    assert isinstance(weight_node, Node)
    weight = tensor_of(module, weight_node)
    gain, shift, mean, variance = (
        None if node is None else tensor_of(module, node).detach().double()  # type: ignore[arg-type]
        for node in norm.args[1:5]
    )
    assert mean is not None
    assert variance is not None
    scale = torch.rsqrt(variance + float(norm.args[6]))  # type: ignore[arg-type]
    scale = scale if gain is None else scale * gain
    bias_node = layer.args[2] if len(layer.args) > 2 else None  # noqa: PLR2004
    before = tensor_of(module, bias_node).detach().double() if isinstance(bias_node, Node) else 0.0
    bias = (before - mean) * scale + (0.0 if shift is None else shift)
    folded = weight.detach().double() * scale.view(-1, *[1] * (weight.ndim - 1))
    name = str(weight_node.target).rpartition(".")[0]
    bias_name = str(bias_node.target) if isinstance(bias_node, Node) else f"{name}.bias".lstrip(".")
    set_tensor(module, str(weight_node.target), folded.to(weight.dtype))
    set_tensor(module, bias_name, bias.to(weight.dtype))
    if bias_node is None:
        with module.graph.inserting_before(layer):
            bias_node = module.graph.get_attr(bias_name)
        layer.args = (*layer.args[:2], bias_node, *layer.args[3:])
    for first in list(norm.users):  # getitem 0: the normalised values, of the operator's three
        first.replace_all_uses_with(layer)
        module.graph.erase_node(first)
    module.graph.erase_node(norm)
