"""SmoothQuant: the outliers of activations moved into the weights that read them.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", 2022, arXiv:2211.10438. A transformer has channels whose values are a hundred times those
of the others, which one scale for all of them cannot serve. Channel j of what linear layers read is
divided, and column j of their weights multiplied, by

    s[j] = max|X[j]|**a / max|W[j]|**(1 - a)

The division is free where the layer before can take it in: a layer norm's gain and shift, or the
rows of a linear layer, also with a ReLU between.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from tersenet.core.types import Batch, Skip
from tersenet.errors import QuantizeError
from tersenet.export.tracing import operand
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.observe import watch
from tersenet.quantize.graph.structure import WeightSite, sites_of

__all__ = ["balance"]

aten = torch.ops.aten

_HANDING: Final = {aten.alias.default, aten.clone.default, aten.contiguous.default}
"""Operators that return what they read, besides those transpositions that keep the channel."""
_LARGEST: Final = 1e4
"""Of a channel's factor, either way."""


def balance(
    module: GraphModule, calibration: Sequence[Batch], *, strength: float, samples: int
) -> list[Skip]:
    """Balances, in place, all that linear layers read; returns the layers it could not, and why.

    `strength` is the paper's a: of the difficulty, the share that moves into the weights. The
    network computes what it did.

    Raises:
        QuantizeError: if there is no place to balance, or an activation is not finite.
    """
    places: dict[Node, list[WeightSite]] = defaultdict(list)
    for site in sites_of(module)[0]:
        if site.node.target is aten.linear.default:
            places[_source(operand(site.node, 0))].append(site)
    before, skips = {}, []
    for source, readers in places.items():
        tensors, reason = _takers(source, readers)
        if reason:
            skips += [Skip(site.name, reason) for site in readers]
        else:
            before[source] = tensors
    if not before:
        reasons = "; ".join(f"{skip.site}: {skip.reason}" for skip in skips[:5])
        raise QuantizeError(
            "no linear layer reads what a layer norm or another linear layer alone returns"
            f"{f' ({reasons})' if reasons else ''}: leave balance out."
        )
    largest: dict[Node, Tensor] = {}

    def see(node: Node, x: Tensor) -> None:
        if not torch.isfinite(x).all():
            raise QuantizeError("activations are NaN or infinite")
        found = x.abs().flatten(0, -2).amax(0)
        largest[node] = torch.maximum(found, largest.get(node, found))

    watch(module, calibration, samples, {node: node.name for node in before}, see)
    with torch.no_grad():
        for source, tensors in before.items():
            weights = [tensor_of(module, site.weight) for site in places[source]]
            scale = _scale(largest[source], weights, strength)
            for weight in weights:
                weight.mul_(scale)
            for node in tensors:
                tensor = tensor_of(module, node)
                tensor.div_(scale.view(-1, *[1] * (tensor.ndim - 1)))
    return skips


def _scale(activation: Tensor, weights: Sequence[Tensor], strength: float) -> Tensor:
    column = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    scale = activation**strength / column ** (1 - strength)
    # A channel without values or without weights has nothing to balance.
    usable = (activation > 0) & (column > 0)
    return torch.where(usable, scale.clamp(1 / _LARGEST, _LARGEST), torch.ones_like(scale))


def _takers(source: Node, readers: Sequence[WeightSite]) -> tuple[list[Node], str]:
    """The tensors to be divided for `source` to be, by row; or why there are none."""
    if _ends(source) != {site.node for site in readers}:
        return [], "not balanced: other operators read the same activation"
    if source.target is aten.layer_norm.default:
        weight, bias = operand(source, 2), operand(source, 3)
        if len(operand(source, 1)) != 1 or weight is None:
            return [], "not balanced: the layer norm before it has no gain to take the division in"
    else:
        layer = operand(source, 0) if source.target is aten.relu.default else source
        shared = layer is not source and len(layer.users) > 1
        if layer.target is not aten.linear.default or shared:
            return [], "not balanced: what it reads comes from no layer norm or linear layer"
        weight, bias = operand(layer, 1), operand(layer, 2)
    tensors = [tensor for tensor in (weight, bias) if tensor is not None]
    if any(tensor.op != "get_attr" or len(tensor.users) > 1 for tensor in tensors):
        return [], "not balanced: the layer before it shares its weight"
    return tensors, ""


def _source(node: Node) -> Node:
    while _hands_on(node):
        node = operand(node, 0)
    return node


def _ends(source: Node) -> set[Node]:
    """What reads the activation, seen through operators that hand it on."""
    found: set[Node] = set()
    for user in source.users:
        found |= _ends(user) if _hands_on(user) else {user}
    return found


def _hands_on(node: Node) -> bool:
    if node.target is aten.transpose.int:
        rank = node.meta["val"].ndim
        return rank - 1 not in {operand(node, index) % rank for index in (1, 2)}
    return node.target in _HANDING
