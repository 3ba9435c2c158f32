"""Cross-layer equalisation: channels of like range, so that one scale serves a whole layer.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
arXiv:1906.04721. Between two layers with a ReLU, channel i may be divided by s[i] in the first
and multiplied by s[i] in the second. With r1[i] and r2[i] the largest weights of that channel
in the two, s[i] = sqrt(r1[i] / r2[i]) makes them equal.

A ReLU6 stays exact: it becomes a ReLU and a minimum with 6 / s[i], whatever the channel.
"""

from typing import Final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from tersenet.export.tracing import operand
from tersenet.quantize.graph.fold import set_tensor, sweep, tensor_of
from tersenet.quantize.graph.structure import CONVOLUTIONS, WeightSite, sites_of

__all__ = ["equalise", "equalised_structure"]

aten = torch.ops.aten

_ROUNDS: Final = 20
"""Passes over a chain of layers at most; each evens out one pair after the other."""


def equalise(module: GraphModule) -> GraphModule:
    """Evens out the channels of every two layers that follow each other, in place."""
    pairs = _pairs(module)
    total = {first.name: torch.ones(_channels(module, first)) for first, _ in pairs}
    for _ in range(_ROUNDS):
        furthest = 0.0
        for first, second in pairs:
            scale = _scale(module, first, second)
            _divide(module, first, second, scale)
            total[first.name] *= scale
            furthest = max(furthest, float((scale.log()).abs().max()))
        if furthest < 1e-3:
            break
    return _capped(module, total)


def equalised_structure(module: GraphModule) -> GraphModule:
    """Makes of `module`, in place, the graph that `equalise` leaves, its numbers aside."""
    return _capped(
        module, {first.name: torch.ones(_channels(module, first)) for first, _ in _pairs(module)}
    )


def _pairs(module: GraphModule) -> list[tuple[WeightSite, WeightSite]]:
    """Layers of which the second alone reads the first, in the order they run."""
    sites, _ = sites_of(module)
    # A channel is dimension 1 of what a convolution returns; that of a linear layer may not be.
    own = {site.node: site for site in sites if site.node.target in CONVOLUTIONS}
    pairs = []
    for first in own.values():
        (node, *others) = first.node.users
        if not others and node.target in (aten.relu.default, *_CAPS) and _cap(node) is not None:
            (node, *others) = node.users
        if not others and node in own and operand(node, 0) in (first.node, *first.node.users):
            pairs.append((first, own[node]))
    return pairs


_CAPS: Final = (aten.relu6.default, aten.hardtanh.default)


def _cap(node: Node) -> float | None:
    """Above which a clamp cuts; None for one that does not start at zero."""
    if node.target is aten.relu.default:
        return float("inf")
    if node.target is aten.relu6.default:
        return 6.0
    return float(operand(node, 2)) if operand(node, 1) == 0 else None


def _channels(module: GraphModule, site: WeightSite) -> int:
    return tensor_of(module, site.weight).shape[0]


def _scale(module: GraphModule, first: WeightSite, second: WeightSite) -> Tensor:
    r1 = tensor_of(module, first.weight).detach().abs().flatten(1).amax(1)
    r2 = _inputs(tensor_of(module, second.weight).detach(), len(r1)).abs().amax(1)
    both = (r1 > 0) & (r2 > 0)
    return torch.where(both, (r1 / r2).sqrt(), torch.ones_like(r1)).clamp(1e-4, 1e4)


def _inputs(weight: Tensor, channels: int) -> Tensor:
    """A convolution's weight by input channel: (channel, value)."""
    groups = channels // weight.shape[1]
    split = weight.unflatten(0, (groups, -1)).flatten(3)  # (group, out, in, kernel)
    return split.permute(0, 2, 1, 3).flatten(0, 1).flatten(1)


def _divide(module: GraphModule, first: WeightSite, second: WeightSite, scale: Tensor) -> None:
    with torch.no_grad():
        weight = tensor_of(module, first.weight)
        weight /= scale.view(-1, *[1] * (weight.ndim - 1))
        if first.bias is not None:
            tensor_of(module, first.bias).div_(scale)
        weight = tensor_of(module, second.weight)
        groups = len(scale) // weight.shape[1]
        split = weight.view(groups, -1, *weight.shape[1:])
        split *= scale.view(groups, 1, -1, *[1] * (weight.ndim - 2))


def _capped(module: GraphModule, scales: dict[str, Tensor]) -> GraphModule:
    graph = module.graph
    sites = {site.name: site for site in sites_of(module)[0]}
    for name, scale in scales.items():
        (clamp,) = sites[name].node.users
        if clamp.target not in _CAPS:
            continue
        weight = tensor_of(module, sites[name].weight)
        caps = (_cap(clamp) or 0.0) / scale.view(-1, *[1] * (weight.ndim - 2))
        path = str(sites[name].weight.target).rpartition(".")[0]
        set_tensor(module, f"{path}.caps", caps)
        with graph.inserting_before(clamp):
            bound = graph.get_attr(f"{path}.caps")
            relu = graph.call_function(aten.relu.default, (sites[name].node,))
            least = graph.call_function(aten.minimum.default, (relu, bound))
        relu.meta, least.meta = dict(clamp.meta), dict(clamp.meta)
        clamp.replace_all_uses_with(least)
        graph.erase_node(clamp)
    sweep(module)
    return module
