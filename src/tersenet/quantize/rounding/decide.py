"""From a plan to the graph with integers: grids, roundings, and what biases make up for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from torch import Tensor
from torch.fx import GraphModule, Node

from tersenet.core.types import Batch, Edit, Workbench
from tersenet.quantize.graph.build import QuantizePlan, edits_of, matched, stored
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.insert import ValueRange, WeightSettings
from tersenet.quantize.graph.observe import head
from tersenet.quantize.graph.structure import Value, WeightSite, concatenations
from tersenet.quantize.grids.linear import Grid
from tersenet.quantize.ranges.weight_range import WeightRange, WholeWeight, weight_grid
from tersenet.quantize.rounding.base import Piece, Rounding
from tersenet.quantize.rounding.lockstep import Correction, Env, Stretch, lockstep
from tersenet.quantize.rounding.nearest import Nearest
from tersenet.quantize.rounding.stretches import stretches

__all__ = ["Deciding", "decide_weights", "quantised"]


@final
@dataclass(frozen=True, kw_only=True)
class Deciding:
    """The options that decide weights."""

    weight_range: WeightRange = field(default_factory=WholeWeight)
    rounding: Rounding = field(default_factory=Nearest)
    bias_correction: Correction = "none"
    samples: int = 512
    """Calibration samples at most."""

    @property
    def by_data(self) -> bool:
        """Whether anything is decided by what the network computes."""
        return self.rounding.needs_data or self.bias_correction != "none"


def quantised(
    module: GraphModule,
    plan: QuantizePlan,
    settings: Deciding,
    *,
    calibration: Sequence[Batch],
    bench: Workbench,
    equalised: bool = False,
) -> tuple[GraphModule, list[Edit]]:
    """Returns the prepared graph `module` with a plan's integers in place, and the edits.

    Raises:
        QuantizeError: if the plan is of another network, or a weight is not finite.
    """
    ranges = {value.value: value for value in plan.values}
    sites, values = matched(module, plan.weights, ranges)
    grids, ranges = decide_weights(
        module,
        sites,
        values,
        weights={weight.site: weight for weight in plan.weights},
        ranges=ranges,
        calibration=calibration,
        settings=settings,
        bench=bench,
    )
    edits = edits_of(plan.weights, plan.values, equalised=equalised)
    module = stored(module, sites, values, weights=plan.weights, ranges=ranges, grids=grids)
    return module, edits


def decide_weights(
    module: GraphModule,
    sites: Sequence[WeightSite],
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
        site.weight: weight_grid(
            tensor_of(module, site.weight), site, weights[site.name].scheme, settings.weight_range
        )
        for site in sites
    }
    own = {site.weight: site for site in sites}
    by_name = {site.name: grids[node] for node, site in own.items()}
    if not settings.by_data:
        return by_name, dict(ranges)
    by_node = {value.node: ranges[value.name] for value in values}
    free, done = _free(values), 0

    def decide(stretch: Stretch, original: Env, twin: Env) -> Mapping[Node, Tensor]:
        nonlocal done
        done += len(stretch.weights)
        bench.tick("rounding", done, len(sites))
        piece = Piece(
            stretch=stretch,
            sites=own,
            weights={node: tensor_of(module, node).detach() for node in stretch.weights},
            grids=grids,
            original=_with_tensors(module, stretch, original),
            quantised=_with_tensors(module, stretch, twin),
            ranges=by_node,
            free=free,
        )
        rounded = settings.rounding.round(piece)
        by_node.update(rounded.ranges)
        return rounded.weights

    lockstep(
        module,
        [inputs for inputs, _ in head(calibration, settings.samples)],
        stretches(module, sites, settings.rounding.over),
        decide,
        ranges=by_node,
        biases={site.node: site.bias for site in sites if site.bias is not None},
        correction=settings.bias_correction,
    )
    return by_name, dict(ranges) | {value.value: value for value in by_node.values()}


def _free(values: Sequence[Value]) -> set[Node]:
    """The values whose ranges are no others', as those that are put side by side are."""
    shared = {name for joined in concatenations(values) for name in joined}
    return {value.node for value in values if value.name not in shared}


def _with_tensors(module: GraphModule, stretch: Stretch, env: Env) -> Env:
    """`env` with the parameters that the stretch reads, whether or not they came up yet."""
    read = {used for node in stretch.nodes for used in node.all_input_nodes}
    return env | {
        node: [tensor_of(module, node).detach()]
        for node in read
        if node.op == "get_attr" and node not in env
    }
