"""The bits of each layer that cost the answers least, within a budget of bytes.

A knapsack with one choice of each layer, as the integer program of Yao et al., "HAWQ-V3", 2020,
arXiv:2011.10680, section 3.4; costs add up, so it is solved without a solver.
"""

from collections.abc import Mapping

import numpy as np

from tersenet.core.knapsack import Factor, solve
from tersenet.errors import QuantizeError

__all__ = ["choose", "stored_bytes"]

_RESOLUTION = 2048
"""Ways kept at each stage: what is chosen costs at most this part of the budget too little."""


def stored_bytes(values: int, bits: int, *, packed: bool) -> float:
    """Returns what a weight takes: `packed`, its bits; else as ONNX does, 4, 8 or 32 each."""
    if packed:
        return values * bits / 8
    return values * (0.5 if bits <= 4 else 1.0 if bits <= 8 else 4.0)


def choose(
    sensitivities: Mapping[str, Mapping[int, float]],
    costs: Mapping[str, Mapping[int, float]],
    *,
    budget: float,
    unit: str = "B",
) -> dict[str, int]:
    """Returns the bits of each layer with the least summed sensitivity within the budget.

    Args:
        sensitivities: by layer and bits.
        costs: by layer and the same bits, in the unit of the budget.
        budget: the most that all layers may cost together.
        unit: of the budget, for the message.

    Raises:
        QuantizeError: if even the cheapest choices cost more.
    """
    options = {name: sorted(own) for name, own in sensitivities.items()}
    factors = [
        Factor(
            names=(name,),
            cost=np.array([costs[name][bit] for bit in bits], float),
            gain=np.array([-sensitivities[name][bit] for bit in bits], float),
        )
        for name, bits in options.items()
    ]
    sizes = {name: len(bits) for name, bits in options.items()}
    picks = solve(sizes, factors, budget=budget, resolution=_RESOLUTION)
    if picks is None:
        least = sum(min(costs[name].values()) for name in options)
        raise QuantizeError(
            f"even with the cheapest bits for each layer they cost {least:,.4g} {unit}, above the "
            f"budget of {budget:,.4g} {unit}: raise it, or allow fewer bits in choices."
        )
    return {name: bits[picks[name]] for name, bits in options.items()}
