"""Integers written into a graph: weights as levels, activations through quantise operators."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from tersenet.errors import QuantizeError
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.export.trace import operand
from tersenet.quantize.fold import sweep, tensor_of
from tersenet.quantize.linear import Grid, quantize, symmetric
from tersenet.quantize.structure import Site, Value, passes

__all__ = ["ValueRange", "WeightSettings", "insert", "weight_grid"]

_LARGEST_BIAS = 2**30
"""Leaves the other half of int32 to the products that it is added to."""


@final
@dataclass(frozen=True, kw_only=True)
class ValueRange:
    """One activation's range as it was decided."""

    value: str
    low: float
    high: float
    scale: float
    """Units per level."""
    zero_point: int
    """The level of zero."""
    bits: int


@final
@dataclass(frozen=True, kw_only=True)
class WeightSettings:
    """How one site's weight is stored."""

    site: str
    shape: tuple[int, ...]
    bits: int
    per_channel: bool

    @property
    def text(self) -> str:
        """As a person would say it."""
        return f"int{self.bits} per {'channel' if self.per_channel else 'tensor'}"


def insert(
    module: GraphModule,
    sites: Sequence[Site],
    values: Sequence[Value],
    *,
    weights: Mapping[str, WeightSettings],
    ranges: Mapping[str, ValueRange],
) -> GraphModule:
    """Stores the weights of `sites` and the activations `values` as integers, in place.

    Tensors are named `<site>.weight.levels`, `<site>.weight.scale`, `<site>.bias.levels`,
    `<value>.scale` and so on. Biases are int32 in units of (input scale * weight scale), those
    that an integer convolution accumulates in.
    """
    scales = {}
    for value in values:
        found = ranges[value.name]
        scales |= dict.fromkeys((value.node, *passes(value)), torch.tensor(found.scale))
    for site in sites:
        _store_weight(module, site, weights[site.name], scales[operand(site.node, 0)])
    for value in values:
        _quantize_value(module, value, ranges[value.name])
    sweep(module)
    for node in module.graph.nodes:
        node.meta = {}  # of the float graph
    return module


def weight_grid(weight: Tensor, settings: WeightSettings) -> Grid:
    """Returns the symmetric restricted grid that holds all of `weight`.

    A channel of zeros, as pruning by masks leaves it, gets the whole tensor's range.

    Raises:
        QuantizeError: if the weight is all zero or not finite.
    """
    whole = weight.detach().abs().max()
    if not settings.per_channel:
        return symmetric(whole, bits=settings.bits)
    channels = weight.detach().abs().flatten(1).amax(1)  # (out)
    return symmetric(torch.where(channels > 0, channels, whole), bits=settings.bits)


def _store_weight(
    module: GraphModule, site: Site, settings: WeightSettings, input_scale: Tensor
) -> None:
    weight = tensor_of(module, site.weight).detach()
    bias = None if site.bias is None else tensor_of(module, site.bias).detach()
    try:
        grid = weight_grid(weight, settings)
    except QuantizeError as error:
        raise QuantizeError(f"the weight of {site.name}: {error}") from error
    scale = grid.scale
    if bias is not None:
        largest = bias.abs() if settings.per_channel else bias.abs().max()
        scale = torch.maximum(scale, largest / input_scale / _LARGEST_BIAS)
    grid = Grid(scale=scale, zero_point=grid.zero_point, low=grid.low, high=grid.high)
    _replace(module, site.weight, levels=quantize(weight, grid), scale=scale)
    if bias is not None and site.bias is not None:
        unit = input_scale * scale
        levels = (bias.double() / unit.double()).round().to(torch.int32)
        _replace(module, site.bias, levels=levels, scale=unit)


def _replace(module: GraphModule, node: Node, *, levels: Tensor, scale: Tensor) -> None:
    """Makes a get_attr node's tensor a submodule that holds integers and their scale."""
    graph, name = module.graph, str(node.target)
    path, _, own = name.rpartition(".")
    parent = module.get_submodule(path)
    delattr(parent, own)
    parent.add_module(own, _Tensors(levels=levels, scale=scale))
    with graph.inserting_before(node):
        args = (graph.get_attr(f"{name}.levels"), graph.get_attr(f"{name}.scale"), None, 0)
        real = graph.call_function(DEQUANTIZE, args)
    node.replace_all_uses_with(real)
    graph.erase_node(node)


def _quantize_value(module: GraphModule, value: Value, found: ValueRange) -> None:
    graph = module.graph
    nodes = [value.node, *passes(value)]
    tensors = _Tensors(
        scale=torch.tensor(found.scale),
        zero_point=torch.tensor(found.zero_point, dtype=torch.uint8),
    )
    _add(module, value.name, tensors)
    with graph.inserting_after(_last_placeholder(graph)):
        zero_point = graph.get_attr(f"{value.name}.zero_point")
        scale = graph.get_attr(f"{value.name}.scale")
    for node in nodes:
        # A placeholder's operators come after all tensors, which are read first.
        with graph.inserting_after(scale.next if node.op == "placeholder" else node):
            ends = (0, 2**found.bits - 1)
            levels = graph.call_function(QUANTIZE, (node, scale, zero_point, *ends))
        with graph.inserting_after(levels):
            real = graph.call_function(DEQUANTIZE, (levels, scale, zero_point, 0))
        node.replace_all_uses_with(real, delete_user_cb=lambda user, own=levels: user is not own)


def _last_placeholder(graph: torch.fx.Graph) -> Node:
    return [node for node in graph.nodes if node.op == "placeholder"][-1]


def _add(module: nn.Module, name: str, tensors: nn.Module) -> None:
    path, _, own = name.rpartition(".")
    parent = module
    for part in filter(None, path.split(".")):
        if not hasattr(parent, part):
            parent.add_module(part, nn.Module())
        parent = getattr(parent, part)
    parent.add_module(own, tensors)


class _Tensors(nn.Module):
    """Named buffers and nothing else."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
