"""Statistics of all the activations that quantising a network would round."""

from collections.abc import Sequence

from torch import Tensor, nn

from tersenet.core.types import Batch
from tersenet.errors import QuantizeError
from tersenet.quantize.graph.build import prepared
from tersenet.quantize.graph.observe import watch
from tersenet.quantize.graph.structure import sites_of, values_of
from tersenet.quantize.ranges.statistics import Moments, Statistics

__all__ = ["collect_statistics"]


def collect_statistics(
    model: nn.Module,
    example: tuple[Tensor, ...],
    calibration: Sequence[Batch],
    *,
    samples: int = 512,
) -> dict[str, Statistics]:
    """Returns the statistics of every activation that quantising `model` would round.

    Batch norms are folded first, so that a name stands for what the quantised network has.

    Raises:
        QuantizeError: if there is no calibration data, or an activation is not finite.
    """
    if not calibration:
        raise QuantizeError("there is no calibration data to take statistics of: give some.")
    module = prepared(model, example)
    values = values_of(module, sites_of(module)[0])
    seen = {value.node: Moments() for value in values}
    names = {value.node: value.name for value in values}
    for take in (Moments.first, Moments.second):
        watch(module, calibration, samples, names, lambda node, x, take=take: take(seen[node], x))
    return {names[node]: one.statistics() for node, one in seen.items()}
