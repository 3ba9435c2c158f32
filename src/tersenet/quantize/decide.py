"""Which value each weight takes: its grid, its rounding, and what biases make up for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, final

from torch import Tensor
from torch.fx import GraphModule, Node

from tersenet.core.types import Batch, Workbench
from tersenet.export.tracing import operand
from tersenet.quantize.fold import tensor_of
from tersenet.quantize.gptq import gptq
from tersenet.quantize.insert import ValueRange, WeightSettings
from tersenet.quantize.linear import Grid, round_trip
from tersenet.quantize.lockstep import Correction, Env, Stretch, lockstep
from tersenet.quantize.observe import calibration_inputs
from tersenet.quantize.reconstruct import Reconstruction, reconstruct
from tersenet.quantize.stretches import stretches
from tersenet.quantize.structure import TRANSPOSED, Site, Value, concatenations
from tersenet.quantize.weight_grids import WeightRange, weight_grid

__all__ = ["Deciding", "Rounding", "decided"]

Rounding: TypeAlias = Literal["nearest", "gptq", "adaround", "block"]


@final
@dataclass(frozen=True, kw_only=True)
class Deciding:
    """The options that decide weights."""

    weight_range: WeightRange = "min-max"
    rounding: Rounding = "nearest"
    bias_correction: Correction = "none"
    samples: int = 512
    reconstruction: Reconstruction = field(default_factory=Reconstruction)


def decided(
    module: GraphModule,
    sites: Sequence[Site],
    values: Sequence[Value],
    *,
    weights: Mapping[str, WeightSettings],
    ranges: Mapping[str, ValueRange],
    calibration: Sequence[Batch],
    settings: Deciding,
    bench: Workbench,
) -> tuple[dict[str, Grid], dict[str, ValueRange]]:
    """Returns the grid of every site and the range of every value.

    The weights and biases in `module` are changed to fit.

    Raises:
        QuantizeError: if a weight is not finite.
    """
    grids = {
        site.name: weight_grid(
            tensor_of(module, site.weight),
            site,
            weights[site.name].scheme,
            kind=settings.weight_range,
        )
        for site in sites
    }
    if settings.rounding == "nearest" and settings.bias_correction == "none":
        return grids, dict(ranges)
    own = {site.weight: site for site in sites}
    by_node = {value.node: ranges[value.name] for value in values}
    shared = {name for joined in concatenations(values) for name in joined}
    free = {value.node for value in values if value.name not in shared}
    done = 0

    def decide(stretch: Stretch, original: Env, quantised: Env) -> dict[Node, Tensor]:
        nonlocal done
        done += len(stretch.weights)
        bench.tick("rounding", done, len(sites))
        starts = {
            node: (tensor_of(module, node).detach(), grids[own[node].name])
            for node in stretch.weights
        }
        if settings.rounding in ("adaround", "block"):
            found, moved = reconstruct(
                stretch,
                starts,
                _with_tensors(module, stretch, original),
                _with_tensors(module, stretch, quantised),
                ranges=by_node,
                learned=free,
                settings=settings.reconstruction,
            )
            by_node.update(moved)
            return found
        return {
            node: _rounded(own[node], weight, grid, original, quantised, settings.rounding)
            for node, (weight, grid) in starts.items()
        }

    by_block = settings.rounding == "block"
    lockstep(
        module,
        calibration_inputs(calibration, settings.samples),
        stretches(module, sites, "block" if by_block else "layer"),
        decide,
        ranges=by_node,
        biases={site.node: site.bias for site in sites if site.bias is not None},
        correction=settings.bias_correction,
    )
    return grids, dict(ranges) | {one.value: one for one in by_node.values()}


def _rounded(
    site: Site, weight: Tensor, grid: Grid, original: Env, quantised: Env, rounding: Rounding
) -> Tensor:
    # A transposed convolution's output mixes kernels: its H is not that of patches.
    if rounding == "nearest" or site.node.target in TRANSPOSED:
        return round_trip(weight, grid, axis=site.axis)
    read = operand(site.node, 0)
    return gptq(site.node, weight, grid, original=original[read], quantised=quantised[read])


def _with_tensors(module: GraphModule, stretch: Stretch, env: Env) -> Env:
    """`env` with the parameters that the stretch reads, whether or not they came up yet."""
    read = {one for node in stretch.nodes for one in node.all_input_nodes}
    return env | {
        node: [tensor_of(module, node).detach()]
        for node in read
        if node.op == "get_attr" and node not in env
    }
