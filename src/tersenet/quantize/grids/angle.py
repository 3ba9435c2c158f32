"""How many bits keep a tensor's direction (deck 1, after Banner et al. 2018).

Uniform quantisation of N Gaussian values turns the vector by a negligible angle as long as the
number of levels is far above what the largest value, about sqrt(2 ln N) deviations, asks for:
2**M >> sqrt(2 ln N).
"""

import math

from torch import Tensor

from tersenet.errors import QuantizeError

__all__ = ["angle_bound", "turned"]


def angle_bound(count: int) -> float:
    """Returns sqrt(2 ln N): what 2**M has to be far above for `count` values.

    Raises:
        QuantizeError: if there are fewer than one.
    """
    if count < 1:
        raise QuantizeError(f"there is no bound for {count} values: give at least 1.")
    return math.sqrt(2 * math.log(count))


def turned(x: Tensor, quantised: Tensor) -> float:
    """Returns 1 - cos of the angle between a tensor and its quantised form."""
    ours, theirs = x.double().flatten(), quantised.double().flatten()
    return 1 - float(ours @ theirs / (ours.norm() * theirs.norm()))
