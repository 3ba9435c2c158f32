"""The rise in loss by its curvature: a cheap stand-in for measuring every choice of bits.

Dong et al., "HAWQ-V2", 2019, arXiv:1911.03852: to second order, on a converged network, moving
the weight of layer i by ΔW costs 1/2 ΔWᵀ H ΔW, and with the mean of H's diagonal,

    Ω(bits) = 1/2 · trace(H) / n · ‖Q(W) − W‖²

The trace is Hutchinson's: of vectors v of random signs, E[vᵀ H v] = trace(H), and H v is the
gradient of gᵀ v. One pass serves all layers: blocks off the diagonal have mean zero, and add to
the spread alone.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from tersenet.core.types import Batch, Tick
from tersenet.errors import QuantizeError
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.structure import WeightSite
from tersenet.quantize.grids.linear import round_trip
from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.weight_mse import LeastWeightError
from tersenet.quantize.ranges.weight_range import weight_grid
from tersenet.train.layout import SafeConvolutions

__all__ = ["hessian_sensitivity", "hessian_traces"]

Loss = Callable[[Tensor, Tensor], Tensor]


def hessian_traces(
    module: GraphModule,
    sites: Sequence[WeightSite],
    batches: Sequence[Batch],
    loss: Loss,
    *,
    probes: int,
    generator: torch.Generator,
    tick: Tick = lambda text, done, total: None,
) -> dict[str, float]:
    """Returns the estimated trace of each layer's block of the Hessian, in nats a sample.

    Args:
        module: a prepared graph in float.
        sites: the layers.
        batches: inputs and targets.
        loss: (outputs, targets) to nats, summed over the batch.
        probes: vectors of random signs, for each batch.
        generator: draws them.
        tick: told how many probes are done.

    Raises:
        QuantizeError: if an estimate is not finite.
    """
    weights = [tensor_of(module, site.weight) for site in sites]
    learned = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    sums, count = [0.0] * len(sites), sum(len(targets) for _, targets in batches)
    for done, (inputs, targets) in enumerate(batches):
        with SafeConvolutions():
            total = loss(module(inputs), targets)
            slopes = torch.autograd.grad(total, weights, create_graph=True)
            for probe in range(probes):
                signs = [
                    torch.randint(0, 2, weight.shape, generator=generator)
                    .mul(2)
                    .sub(1)
                    .to(weight.dtype)
                    for weight in weights
                ]
                curved = torch.autograd.grad(
                    slopes, weights, signs, retain_graph=probe < probes - 1
                )
                for index, (sign, product) in enumerate(zip(signs, curved, strict=True)):
                    sums[index] += float((sign * product).sum()) / probes
                tick("probing curvature", done * probes + probe + 1, len(batches) * probes)
    for weight, was in zip(weights, learned, strict=True):
        weight.requires_grad_(was)
    found = {site.name: total / count for site, total in zip(sites, sums, strict=True)}
    for name, trace in found.items():
        if not torch.isfinite(torch.tensor(trace)):
            raise QuantizeError(
                f"the curvature of the loss by {name} is NaN or infinite: check the network's "
                "weights and the calibration data."
            )
    return found


def hessian_sensitivity(
    module: GraphModule, sites: Sequence[WeightSite], traces: dict[str, float], bits: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Returns Ω by layer and bits, in nats a sample; a negative trace counts as none."""
    found = {}
    for site in sites:
        weight = tensor_of(module, site.weight).detach()
        mean = max(0.0, traces[site.name]) / weight.numel()
        found[site.name] = {}
        for bit in bits:
            grid = weight_grid(weight, site, Scheme(bits=bit), LeastWeightError())
            moved = float((round_trip(weight, grid, axis=site.axis) - weight).square().sum())
            found[site.name][bit] = mean * moved / 2
    return found
