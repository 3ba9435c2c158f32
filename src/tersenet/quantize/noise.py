"""Where quantisation costs: the noise of each layer, and what reaches the output.

Noise is told as SQNR in dB, 10 log10(signal power / error power): an 8-bit grid that fits has
about 45, a 4-bit one about 20, and each lost bit takes 6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from tersenet.quantize.graph.copies import is_copy
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.insert import ValueRange, WeightSettings
from tersenet.quantize.graph.structure import Value, WeightSite, tail
from tersenet.quantize.grids.granularity import ByTensor
from tersenet.quantize.grids.linear import round_trip
from tersenet.quantize.ranges.weight_range import WeightRange, WholeWeight, weight_grid

__all__ = ["LayerNoise", "costliest", "layer_noise", "sqnr"]

_WHOLE: Final = WholeWeight()


@final
@dataclass(frozen=True, kw_only=True)
class LayerNoise:
    """What quantising one layer does."""

    site: str
    weight_db: float
    """SQNR of its weight."""
    activation_db: float | None
    """SQNR of what it returns, or of its own copy of what it reads if that is worse, from rounding
    that alone; None where it stays float."""
    output_db: float
    """SQNR of the network's output, if this layer alone is quantised."""
    accumulated_db: float | None
    """SQNR of what it returns once all before it is quantised, too."""
    advice: str


def sqnr(signal: Tensor, noisy: Tensor) -> float:
    """Returns the ratio of signal to noise in dB; infinite without noise."""
    power = signal.double().square().sum()
    error = (noisy.double() - signal.double()).square().sum()
    return float("inf") if error == 0 else float(10 * torch.log10(power / error))


def layer_noise(
    module: GraphModule,
    sites: Sequence[WeightSite],
    values: Sequence[Value],
    x: Tensor,
    *,
    weights: Mapping[str, WeightSettings],
    ranges: Mapping[str, ValueRange],
    weight_range: WeightRange = _WHOLE,
) -> list[LayerNoise]:
    """Returns the noise of every site of a prepared graph, on the inputs `x`."""
    rounded = {
        site.weight: round_trip(tensor_of(module, site.weight).detach(), grid, axis=site.axis)
        for site in sites
        for grid in [
            weight_grid(
                tensor_of(module, site.weight), site, weights[site.name].scheme, weight_range
            )
        ]
    }
    by_node = {value.node: ranges[value.name] for value in values}
    returned = [tail(site.node) for site in sites]
    copies = [node for node in by_node if is_copy(node)]
    clean = _Partly(module, {}, {}, [*returned, *copies])
    whole = _Partly(module, rounded, by_node, returned)
    with torch.inference_mode():
        signal, _ = clean.run(x), whole.run(x)
        found = []
        for site, node in zip(sites, returned, strict=True):
            weight = tensor_of(module, site.weight).detach()
            read = [activation for activation in site.node.all_input_nodes if activation in copies]
            own = {
                activation: by_node[activation]
                for activation in (node, *read)
                if activation in by_node
            }
            alone = _Partly(module, {site.weight: rounded[site.weight]}, own, ())
            weight_db = sqnr(weight, rounded[site.weight])
            each = {
                activation: sqnr(
                    clean.kept[activation], round_trip(clean.kept[activation], value.grid)
                )
                for activation, value in own.items()
            }
            worst = min(each, key=lambda activation: each[activation], default=None)
            found.append(
                LayerNoise(
                    site=site.name,
                    weight_db=weight_db,
                    activation_db=None if worst is None else each[worst],
                    output_db=sqnr(signal, alone.run(x)),
                    accumulated_db=sqnr(clean.kept[node], whole.kept[node]),
                    advice=_advice(weights[site.name], site)
                    if worst is None or each[worst] >= weight_db
                    else _advice_on(own[worst]),
                )
            )
    return found


def costliest(found: Sequence[LayerNoise], count: int = 3) -> list[LayerNoise]:
    """Returns the layers whose quantisation alone disturbs the output most."""
    return sorted(found, key=lambda layer: layer.output_db)[:count]


def _advice_on(value: ValueRange) -> str:
    more = f"{8 if value.bits < 8 else 16} bits by an override"
    if value.value.endswith(".input"):
        return f"what it reads: try range mse or percentile, or {more} of {value.value}"
    return f"its activations: try range mse or percentile, or {more}"


def _advice(settings: WeightSettings, site: WeightSite) -> str:
    if isinstance(settings.scheme.per, ByTensor):
        return "its weights share one scale: per channel, or equalise"
    if settings.scheme.bits < 8:
        return "its weights: rounding gptq or block, or 8 bits by an override"
    return f"its weights: weight_range mse, or '{site.name}' in skip"


@final
class _Partly(Interpreter):
    """Runs a graph with some weights and activations rounded, and keeps what is asked for."""

    def __init__(
        self,
        module: GraphModule,
        weights: Mapping[Node, Tensor],
        ranges: Mapping[Node, ValueRange],
        keep: Sequence[Node],
    ) -> None:
        super().__init__(module)
        self.weights = weights
        self.ranges = ranges
        self.wanted = set(keep)
        self.kept: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        result = self.weights[n] if n in self.weights else super().run_node(n)
        if n in self.ranges:
            result = round_trip(result, self.ranges[n].grid)
        if n in self.wanted:
            self.kept[n] = result
        return result
