"""Integers written into a graph: weights as levels, activations through quantise operators."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.export.trace import operand
from tersenet.quantize.graph.fold import sweep, tensor_of
from tersenet.quantize.graph.structure import Value, WeightSite, passes
from tersenet.quantize.grids.linear import Grid, quantize
from tersenet.quantize.grids.scheme import Scheme

__all__ = ["ValueRange", "WeightSettings", "add_tensors", "insert"]

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
    signed: bool = False
    """Whether levels lie around zero: from -2**(bits - 1), not from 0."""

    @property
    def least(self) -> int:
        """The lowest level."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def kind(self) -> torch.dtype:
        """The type of its levels."""
        if self.signed:
            return torch.int8 if self.bits <= 8 else torch.int16
        return torch.uint8 if self.bits <= 8 else torch.uint16

    @property
    def grid(self) -> Grid:
        """The reals that its levels stand for."""
        return Grid(
            scale=torch.tensor(self.scale),
            zero_point=torch.tensor(self.zero_point, dtype=self.kind),
            low=self.least,
            high=self.least + 2**self.bits - 1,
        )


@final
@dataclass(frozen=True, kw_only=True)
class WeightSettings:
    """How one site's weight is stored."""

    site: str
    shape: tuple[int, ...]
    scheme: Scheme

    @property
    def text(self) -> str:
        """As a person would say it."""
        return self.scheme.text


def insert(
    module: GraphModule,
    sites: Sequence[WeightSite],
    values: Sequence[Value],
    *,
    weights: Mapping[str, WeightSettings],
    ranges: Mapping[str, ValueRange],
    grids: Mapping[str, Grid] | None = None,
) -> GraphModule:
    """Stores the weights of `sites` and the activations `values` as integers, in place.

    Tensors are named `<site>.weight.levels`, `<site>.weight.scale`, `<value>.scale` and so on.
    Biases are int32 in units of (input scale * weight scale), those that an integer kernel sums
    in; where no integer kernel can run they stay float32.

    `weights` and `grids` are by site, `ranges` by value. Without values only weights are stored,
    and layers compute in float; without its grid a weight gets the one that holds all of it.
    """
    scales: dict[Node, float] = {}
    for value in values:
        found = ranges[value.name].scale
        scales |= dict.fromkeys((value.node, *passes(value)), found)
    for site in sites:
        settings, source = weights[site.name], operand(site.node, 0 if not site.table else 1)
        grid = None if grids is None else grids.get(site.name)
        _store_weight(module, site, settings, grid, scales.get(source))
    for value in values:
        _quantize_value(module, value, ranges[value.name])
    sweep(module)
    for node in module.graph.nodes:
        node.meta = {}  # of the float graph
    return module


def _store_weight(
    module: GraphModule,
    site: WeightSite,
    settings: WeightSettings,
    grid: Grid | None,
    input_scale: float | None,
) -> None:
    weight = tensor_of(module, site.weight).detach()
    if grid is None:
        grid = settings.scheme.grid(weight, axis=site.axis)
    bias = None if site.bias is None else tensor_of(module, site.bias).detach()
    # Groups have no integer kernel: their sums are floats, and so is the bias.
    if bias is not None and input_scale is not None and grid.group is None:
        grid = _bearing(grid, bias, input_scale)
    levels = quantize(weight, grid, axis=site.axis)
    tensors = {"levels": levels, "scale": grid.scale}
    if settings.scheme.mode == "asymmetric":
        tensors["zero_point"] = grid.zero_point
    if grid.group is not None:
        tensors["levels"] = levels.flatten(1)  # (out, value)
    _replace(module, site, tensors, grid)
    if site.bias is not None and bias is not None and input_scale is not None and not grid.group:
        unit = input_scale * grid.scale
        if unit.ndim:  # a transposed convolution's groups share the scales of their channels
            unit = unit.repeat(len(bias) // len(unit))
        rounded = {"levels": (bias.double() / unit.double()).round().to(torch.int32)}
        _read_from(module, site.bias, rounded | {"scale": unit}, axis=0)


def _bearing(grid: Grid, bias: Tensor, input_scale: float) -> Grid:
    """The grid, coarsened where the bias would overflow a runtime's 32-bit sums."""
    largest = bias.abs() if grid.scale.ndim else bias.abs().max()
    if grid.scale.ndim and grid.scale.shape != largest.shape:  # groups share output channels
        largest = bias.abs().max()
    scale = torch.maximum(grid.scale, largest / input_scale / _LARGEST_BIAS)
    return replace(grid, scale=scale)


def _replace(module: GraphModule, site: WeightSite, tensors: dict[str, Tensor], grid: Grid) -> None:
    """Makes a weight's node read a submodule that holds integers and their scale."""
    shape = list(tensor_of(module, site.weight).shape)
    axis = 1 if grid.group is not None else site.axis
    real = _read_from(module, site.weight, tensors, axis=axis, block=grid.group or 0)
    if grid.group is not None and len(shape) != 2:
        with module.graph.inserting_after(real):
            whole = module.graph.call_function(torch.ops.aten.reshape.default, (real, shape))
        real.replace_all_uses_with(whole, delete_user_cb=lambda user: user is not whole)


def _read_from(
    module: GraphModule, node: Node, tensors: dict[str, Tensor], *, axis: int, block: int = 0
) -> Node:
    """Replaces a get_attr node by the dequantised tensors, which go where its own was."""
    graph, name = module.graph, str(node.target)
    path, _, own = name.rpartition(".")
    parent = module.get_submodule(path)
    delattr(parent, own)
    parent.add_module(own, _Tensors(**tensors))
    with graph.inserting_before(node):
        read = {key: graph.get_attr(f"{name}.{key}") for key in tensors}
        args = (read["levels"], read["scale"], read.get("zero_point"), axis, block)
        real = graph.call_function(DEQUANTIZE, args)
    node.replace_all_uses_with(real)
    graph.erase_node(node)
    return real


def _quantize_value(module: GraphModule, value: Value, found: ValueRange) -> None:
    graph = module.graph
    nodes = [value.node, *passes(value)]
    add_tensors(
        module,
        value.name,
        scale=torch.tensor(found.scale),
        zero_point=torch.tensor(found.zero_point, dtype=found.kind),
    )
    with graph.inserting_after(_last_placeholder(graph)):
        zero_point = graph.get_attr(f"{value.name}.zero_point")
        scale = graph.get_attr(f"{value.name}.scale")
    for node in nodes:
        # A placeholder's operators come after all tensors, which are read first.
        with graph.inserting_after(scale.next if node.op == "placeholder" else node):
            ends = (found.least, found.least + 2**found.bits - 1)
            levels = graph.call_function(QUANTIZE, (node, scale, zero_point, *ends))
        with graph.inserting_after(levels):
            real = graph.call_function(DEQUANTIZE, (levels, scale, zero_point, 0))
        node.replace_all_uses_with(real, delete_user_cb=lambda user, own=levels: user is not own)


def _last_placeholder(graph: torch.fx.Graph) -> Node:
    return [node for node in graph.nodes if node.op == "placeholder"][-1]


def add_tensors(module: nn.Module, name: str, **tensors: Tensor) -> None:
    """Adds a submodule that holds `tensors` under a dotted name, with the modules that it takes."""
    path, _, own = name.rpartition(".")
    parent = module
    for part in filter(None, path.split(".")):
        if not hasattr(parent, part):
            parent.add_module(part, nn.Module())
        parent = getattr(parent, part)
    parent.add_module(own, _Tensors(**tensors))


class _Tensors(nn.Module):
    """Named buffers and nothing else."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
