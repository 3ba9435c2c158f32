"""From a trained graph to the one that ships, integers in place."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.types import Edit, EditKind
from tersenet.errors import QuantizeError
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.export.tracing import operand
from tersenet.graph.reading import tensors_of
from tersenet.quantize.aware.bits import Bits, place, values_at
from tersenet.quantize.aware.network import Trainable
from tersenet.quantize.graph.build import prepared, sites_of_shapes
from tersenet.quantize.graph.copies import erase_copies
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.insert import ValueRange, WeightSettings, add_tensors, insert
from tersenet.quantize.graph.structure import Value, WeightSite, sites_of
from tersenet.quantize.grids.linear import Grid
from tersenet.quantize.grids.scheme import Scheme

__all__ = ["deploy", "edits_of", "rebuild"]

_SIGN_STEP: Final = 1e-6
_FINER: Final = 64


def deploy(
    model: nn.Module, example: tuple[Tensor, ...], trained: Trainable, bits: Mapping[str, Bits]
) -> GraphModule:
    """Returns the deployable graph; `model` is given the trained tensors, weights on their grids.

    Folding a batch norm multiplies a filter, so its scale, and moves no level.
    """
    units = _write_back(model, trained)
    folded = prepared(model, example)
    grids = {}
    for site in sites_of(folded)[0]:
        if site.name not in bits:
            continue
        own = trained.weights[site.name]
        weight, (on_grid, unit) = tensor_of(folded, site.weight), units[site.name]
        before = on_grid.abs().flatten(1).amax(1)  # (out)
        factor = weight.detach().abs().flatten(1).amax(1) / before
        scale = unit * torch.where(before > 0, factor, 1.0)
        grids[site.name] = Grid(
            scale=scale,
            zero_point=torch.zeros_like(scale, dtype=torch.int8),
            low=own.low,
            high=own.high,
        )
    ranges = {}
    for spot in trained.placed:
        if spot.signs:
            continue
        step, zero = trained.activations[spot.name].grid()
        low = -zero.item() * step.item()
        ranges[spot.name] = ValueRange(
            value=spot.name,
            low=low,
            high=low + (2**spot.bits - 1) * step.item(),
            scale=step.item(),
            zero_point=int(zero.item()),
            bits=spot.bits,
        )
    signs = any(spot.signs for spot in trained.placed)
    return _inserted(folded, bits, grids, ranges, signs=signs)


def edits_of(trained: Trainable, bits: Mapping[str, Bits]) -> list[Edit]:
    """Returns one edit for each layer."""
    tensors = tensors_of(trained.module)
    return [
        Edit(
            site=name,
            kind=EditKind.ENCODE,
            before="fp32",
            after=f"trained at {bits[name].weight} bits, reads {bits[name].activation}",
            data={
                "shape": list(tensors[f"{name}.weight"].shape),
                "weight": bits[name].weight,
                "activation": bits[name].activation,
                "low": trained.weights[name].low,
                "high": trained.weights[name].high,
                "signs": any(spot.signs for spot in trained.placed),
            },
        )
        for name in trained.sites
    ]


def rebuild(model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]) -> GraphModule:
    """Returns the graph that `deploy` made, its tensors still to be loaded.

    Raises:
        QuantizeError: if there are no edits, or they are of another network.
    """
    if not edits:
        raise QuantizeError("there is no layer to quantise in the edits: save the network again.")
    folded = prepared(model, example)
    sites_of_shapes(folded, {edit.site: tuple(edit.data["shape"]) for edit in edits})
    bits, grids = {}, {}
    for edit in edits:
        bits[edit.site] = Bits(weight=edit.data["weight"], activation=edit.data["activation"])
        channels = edit.data["shape"][0]
        grids[edit.site] = Grid(
            scale=torch.ones(channels),
            zero_point=torch.zeros(channels, dtype=torch.int8),
            low=edit.data["low"],
            high=edit.data["high"],
        )
    return _inserted(folded, bits, grids, None, signs=edits[0].data["signs"])


def _inserted(
    folded: GraphModule,
    bits: Mapping[str, Bits],
    grids: Mapping[str, Grid],
    ranges: Mapping[str, ValueRange] | None,
    *,
    signs: bool,
) -> GraphModule:
    sites = [site for site in sites_of(folded)[0] if site.name in bits]
    placed = place(folded, sites, bits, signs=signs)
    values = {value.name: value for value in values_at(folded, placed)}
    if ranges is None:  # for tensors to be loaded into
        ranges = {
            spot.name: ValueRange(
                value=spot.name, low=0, high=2**spot.bits - 1, scale=1, zero_point=0, bits=spot.bits
            )
            for spot in placed
        }
    after_signs = {spot.name.removesuffix(".input") for spot in placed if spot.signs}
    grids = {name: _finer(grid) if name in after_signs else grid for name, grid in grids.items()}
    settings = {
        site.name: WeightSettings(
            site=site.name,
            shape=tuple(tensor_of(folded, site.weight).shape),
            scheme=Scheme(bits=_stored_bits(grids[site.name]), mode="full"),
        )
        for site in sites
    }
    signed = [values.pop(spot.name) for spot in placed if spot.signs]
    linear = list(values.values())
    _round_biases(folded, [site for site in sites if site.name in after_signs], grids)
    module = insert(folded, sites, linear, weights=settings, ranges=ranges, grids=grids)
    for value in signed:
        _quantise_sign(module, value)
    erase_copies(module)
    return module


def _finer(grid: Grid) -> Grid:
    """The grid with its levels a multiple of what they were.

    A runtime rounds a bias to the unit of its sums. Of signs times signs that unit is the whole
    weight, and sums rounded so would often be exactly zero, which has no sign.
    """
    return dataclasses.replace(
        grid, scale=grid.scale / _FINER, low=grid.low * _FINER, high=grid.high * _FINER
    )


def _round_biases(
    module: GraphModule, sites: Sequence[WeightSite], grids: Mapping[str, Grid]
) -> None:
    """Rounds the biases of layers that read signs to what a runtime's kernel sums in."""
    for site in sites:
        if site.bias is not None:
            bias, unit = tensor_of(module, site.bias), grids[site.name].scale
            with torch.no_grad():
                bias.copy_((bias / unit).round() * unit)


def _quantise_sign(module: GraphModule, value: Value) -> None:
    """Writes +1 and −1 as what a runtime has: levels of so small a step that all saturate.

    What is smaller than half that step, zero say, becomes 0, as the padding does.
    """
    graph, copy = module.graph, value.node
    tensors = {
        "step": torch.tensor(_SIGN_STEP),
        "scale": torch.tensor(1.0),
        "zero_point": torch.zeros((), dtype=torch.int8),
    }
    add_tensors(module, value.name, **tensors)
    with graph.inserting_before(copy):
        step, scale, zero = (graph.get_attr(f"{value.name}.{name}") for name in tensors)
        levels = graph.call_function(QUANTIZE, (operand(copy, 0), step, zero, -1, 1))
        real = graph.call_function(DEQUANTIZE, (levels, scale, zero, 0))
    copy.replace_all_uses_with(real)
    graph.erase_node(copy)


def _stored_bits(grid: Grid) -> int:
    """The bits that an integer needs for the grid's levels."""
    return max(2, int(max(grid.high, -grid.low - 1)).bit_length() + 1)


def _write_back(model: nn.Module, trained: Trainable) -> dict[str, tuple[Tensor, Tensor]]:
    """Gives `model` the trained tensors, weights on their grids.

    Returns, by layer, its weight and the reals that a level of each channel is worth.
    """
    mine, theirs, units = tensors_of(model), tensors_of(trained.module), {}
    with torch.no_grad():
        for name in mine.keys() & theirs.keys():
            mine[name].copy_(theirs[name])
        for name in trained.gains:
            mine[name].abs_()
        for name, own in trained.weights.items():
            weight = theirs[f"{name}.weight"]
            on_grid = own.eval()(weight)
            mine[f"{name}.weight"].copy_(on_grid)
            units[name] = (on_grid, own.unit(weight).detach())
    return units
