"""How far the network's answers move when one layer alone has few bits.

Measured as the Kullback-Leibler divergence of the answers from the float network's, as in Cai et
al., "ZeroQ", 2020, arXiv:2001.00281, section 3.3: no labels are needed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional

from tersenet.core.types import Tick
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.structure import WeightSite
from tersenet.quantize.grids.linear import round_trip
from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.weight_mse import LeastWeightError
from tersenet.quantize.ranges.weight_range import weight_grid

__all__ = ["kl_sensitivity", "rounded"]


def kl_sensitivity(
    module: GraphModule,
    sites: Sequence[WeightSite],
    inputs: Sequence[Tensor],
    bits: Sequence[int],
    *,
    tick: Tick = lambda text, done, total: None,
) -> dict[str, dict[int, float]]:
    """Returns, by layer and bits, the mean KL(float ‖ rounded) of the answers, in nats a sample.

    Args:
        module: a prepared graph in float; its weights are as before afterwards.
        sites: the layers, each rounded alone, to the grid of least squared error.
        inputs: batches; labels are not needed.
        bits: to try.
        tick: told how many layers are done.
    """
    with torch.inference_mode():
        expected = [module(batch).log_softmax(1) for batch in inputs]
    count, found = sum(len(batch) for batch in inputs), {}
    for done, site in enumerate(sites, 1):
        own = {}
        for bit in bits:
            with rounded(module, site, bit), torch.inference_mode():
                moved = sum(
                    functional.kl_div(
                        module(batch).log_softmax(1), answers, reduction="sum", log_target=True
                    ).item()
                    for batch, answers in zip(inputs, expected, strict=True)
                )
            # Rounding of floats may take a divergence of nothing below zero.
            own[bit] = max(0.0, moved / count)
        found[site.name] = own
        tick("measuring layers", done, len(sites))
    return found


@contextmanager
def rounded(module: GraphModule, site: WeightSite, bits: int) -> Iterator[None]:
    """Has one layer's weight on a grid of so many bits for a while."""
    weight = tensor_of(module, site.weight)
    was = weight.detach().clone()
    grid = weight_grid(was, site, Scheme(bits=bits), LeastWeightError())
    with torch.no_grad():
        weight.copy_(round_trip(was, grid, axis=site.axis))
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(was)
