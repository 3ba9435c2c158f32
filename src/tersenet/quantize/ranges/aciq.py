"""The range of least expected squared error, of a Laplace or Gauss distribution like the values.

ACIQ (Banner et al., "Post-training 4-bit quantization of convolution networks for
rapid-deployment", 2018, arXiv:1810.05723): cut at a, values of a Laplace distribution of mean
distance b have the expected squared error, rounding to 2**M levels included,

    2 b^2 exp(-a / b) + a^2 / (3 * 4^M)

whose derivative by a is zero at the a below; a Gaussian's likewise.
"""

import math
from typing import Any, ClassVar, Literal, final

from pydantic.dataclasses import dataclass
from scipy.optimize import minimize_scalar

from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges.base import RANGES, Range
from tersenet.quantize.ranges.histogram import Histogram
from tersenet.quantize.ranges.observer import Observer
from tersenet.quantize.ranges.statistics import Statistics

__all__ = ["Aciq", "aciq_bound"]


@final
@RANGES.register("aciq")
@dataclass(frozen=True, config={"extra": "forbid"})
class Aciq(Range[Histogram | Statistics]):
    """ACIQ's bounds, but no more than was seen: for few bits.

    What a ReLU left is half of a distribution around zero, on twice as many levels a unit.
    """

    of_statistics: ClassVar[bool] = True
    observes: ClassVar[type[Observer]] = Histogram

    def ends(self, seen: Histogram | Statistics, scheme: Scheme) -> tuple[float, float]:
        """Returns the bounds for the likelier of the two distributions."""
        mean, std, b = seen.mean, seen.std, seen.b
        # The mean distance is sqrt(2 / pi) = 0.80 deviations of a Gaussian and 0.71 of a Laplace.
        gauss = b / max(std, 1e-30) > (math.sqrt(2 / math.pi) + math.sqrt(0.5)) / 2
        likelier = "gauss" if gauss else "laplace"
        if seen.min >= 0:
            # |x| has mean b of a Laplace around zero, and mean square the variance of a Gaussian.
            spread = math.sqrt(std * std + mean * mean) if gauss else mean
            bound = aciq_bound(spread, bits=scheme.bits + 1, distribution=likelier)
            return 0.0, min(seen.max, bound)
        bound = aciq_bound(std if gauss else b, bits=scheme.bits, distribution=likelier)
        return max(seen.min, mean - bound), min(seen.max, mean + bound)


def aciq_bound(
    spread: float, *, bits: int, distribution: Literal["laplace", "gauss"] = "laplace"
) -> float:
    """Returns the bound of least expected squared error around the mean.

    `spread` is b, the mean distance from the mean, of a Laplace distribution, or the standard
    deviation of a Gaussian.
    """
    error = _laplace if distribution == "laplace" else _gauss
    best: Any = minimize_scalar(lambda a: error(a, bits), bounds=(0.1, 40.0), method="bounded")
    return spread * float(best.x)


def _laplace(a: float, bits: int) -> float:
    return 2 * math.exp(-a) + a * a / (3 * 4**bits)


def _gauss(a: float, bits: int) -> float:
    tail = (1 + a * a) * math.erfc(a / math.sqrt(2)) - a * math.sqrt(2 / math.pi) * math.exp(
        -a * a / 2
    )
    return tail + a * a / (3 * 4**bits)
