"""Where to cut a range off: closed forms for values of a known distribution.

ACIQ (Banner et al., "Post-training 4-bit quantization of convolution networks for
rapid-deployment", 2018, arXiv:1810.05723): cut at a, values of a Laplace distribution of mean
distance b have the expected squared error, rounding to 2**M levels included,

    2 b^2 exp(-a / b) + a^2 / (3 * 4^M)

whose derivative by a is zero at the a below; a Gaussian's likewise.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

__all__ = ["aciq_bound", "aciq_clip", "aciq_range", "average_clip", "deviation_clip"]


def aciq_bound(
    spread: float, *, bits: int, distribution: Literal["laplace", "gauss"] = "laplace"
) -> float:
    """Returns the bound of least expected squared error around the mean.

    `spread` is b, the mean distance from the mean, of a Laplace distribution, or the standard
    deviation of a Gaussian.
    """
    error = _laplace if distribution == "laplace" else _gauss
    return spread * _best(error, bits)


def aciq_range(
    *, minimum: float, maximum: float, mean: float, std: float, b: float, bits: int
) -> tuple[float, float]:
    """Returns the range of ACIQ, but no more than was seen.

    What a ReLU left is half of a distribution around zero, on twice as many levels a unit.
    """
    # The mean distance is sqrt(2 / pi) = 0.80 deviations of a Gaussian and 0.71 of a Laplace.
    gauss = b / max(std, 1e-30) > (math.sqrt(2 / math.pi) + math.sqrt(0.5)) / 2
    if minimum >= 0:
        # |x| has mean b of a Laplace around zero, and mean square the variance of a Gaussian.
        spread = math.sqrt(std * std + mean * mean) if gauss else mean
        bound = aciq_bound(spread, bits=bits + 1, distribution="gauss" if gauss else "laplace")
        return 0.0, min(maximum, bound)
    bound = aciq_bound(std if gauss else b, bits=bits, distribution="gauss" if gauss else "laplace")
    return max(minimum, mean - bound), min(maximum, mean + bound)


def average_clip(x: Tensor, *, bits: int) -> float:
    """Returns the mean over samples of each sample's largest magnitude."""
    del bits
    return x.flatten(1).abs().amax(1).mean().item()


def deviation_clip(x: Tensor, *, bits: int, deviations: float = 4.0) -> float:
    """Returns that many standard deviations around the mean, but no more than occurs."""
    del bits
    bound = x.mean().abs() + deviations * x.std()
    return torch.minimum(bound, x.abs().max()).item()


def aciq_clip(x: Tensor, *, bits: int) -> float:
    """Returns ACIQ's bound for the distribution, Laplace or Gauss, that `x` looks more like."""
    low, high = aciq_range(
        minimum=x.min().item(),
        maximum=x.max().item(),
        mean=x.mean().item(),
        std=x.std().item(),
        b=(x - x.mean()).abs().mean().item(),
        bits=bits,
    )
    return max(-low, high)


def _laplace(a: float, bits: int) -> float:
    return 2 * math.exp(-a) + a * a / (3 * 4**bits)


def _gauss(a: float, bits: int) -> float:
    tail = (1 + a * a) * math.erfc(a / math.sqrt(2)) - a * math.sqrt(2 / math.pi) * math.exp(
        -a * a / 2
    )
    return tail + a * a / (3 * 4**bits)


def _best(error: Callable[[float, int], float], bits: int) -> float:
    found = minimize_scalar(lambda a: error(a, bits), bounds=(0.1, 40.0), method="bounded")
    return float(found.x)
