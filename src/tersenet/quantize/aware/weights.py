"""Quantisers of weights, as modules that training may hold parameters in."""

import abc
from typing import Final, Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from tersenet.errors import QuantizeError
from tersenet.quantize.aware.formulas.binary import xnor
from tersenet.quantize.aware.formulas.dorefa import dorefa
from tersenet.quantize.aware.formulas.lsq import first_step, lsq
from tersenet.quantize.aware.formulas.straight import round_through, sign_clipped
from tersenet.quantize.aware.formulas.ternary import ternary, trained_ternary
from tersenet.quantize.aware.formulas.wrpn import wrpn

__all__ = [
    "WEIGHTS",
    "WeightKind",
    "WeightQuantiser",
    "check_weight_bits",
    "kind_at",
    "weight_quantiser",
]

WeightKind: TypeAlias = Literal["lsq", "min-max", "dorefa", "wrpn", "sign", "xnor", "twn", "ttq"]


class WeightQuantiser(nn.Module, abc.ABC):
    """A weight in, the same shape on a grid out; gradients pass.

    Masked weights, those that are zero when training starts, stay zero: a grid without a level
    of zero is given one.
    """

    low: int
    high: int
    """The ends of the levels that the grid has."""
    kept: Tensor | None
    """1 where a weight is not masked; None where none is."""
    seen: Tensor
    """Steps trained so far: saved, so that training resumes exactly."""

    def __init__(self, weight: Tensor, *, bits: int, masked: bool) -> None:
        super().__init__()
        self.bits = bits
        kept = (weight.detach() != 0).to(weight.dtype) if masked else None
        self.register_buffer("kept", kept)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.start = 0
        """The step from which on training has the weight on its grid."""

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the weight, output channel first, on its grid."""
        if self.training:
            self.seen.add_(1)
            if int(self.seen) <= self.start:
                return weight
        on_grid = self.on_grid(weight)
        return on_grid if self.kept is None else on_grid * self.kept

    def begin(self, unit: Tensor) -> None:
        """Starts from a grid found before, the reals a level is worth; only one that learns can."""

    @abc.abstractmethod
    def on_grid(self, weight: Tensor) -> Tensor:
        """Returns the weight on its grid, before masks."""

    @abc.abstractmethod
    def unit(self, weight: Tensor) -> Tensor:
        """Returns the reals that one level is worth, for each output channel."""


@final
class LearnedWeight(WeightQuantiser):
    """LSQ, one step for each output channel."""

    def __init__(self, weight: Tensor, *, bits: int, masked: bool) -> None:
        super().__init__(weight, bits=bits, masked=masked)
        self.low, self.high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if bits > 1 else (-1, 1)
        magnitude = weight.detach().abs().flatten(1).mean(1)
        magnitude = torch.where(magnitude > 0, magnitude, magnitude.mean())
        self.step = nn.Parameter(first_step(magnitude, high=self.high))

    def begin(self, unit: Tensor) -> None:
        with torch.no_grad():
            self.step.copy_(unit.expand_as(self.step))

    def on_grid(self, weight: Tensor) -> Tensor:
        step = _positive(self.step).view(-1, *[1] * (weight.ndim - 1))
        return lsq(weight, step, low=self.low, high=self.high)

    def unit(self, weight: Tensor) -> Tensor:
        return _positive(self.step)


@final
class FollowedWeight(WeightQuantiser):
    """The range of each output channel as it is at every step: Jacob et al. 2017, section 3."""

    def __init__(self, weight: Tensor, *, bits: int, masked: bool) -> None:
        super().__init__(weight, bits=bits, masked=masked)
        self.high = 2 ** (bits - 1) - 1
        self.low = -self.high

    def on_grid(self, weight: Tensor) -> Tensor:
        unit = self.unit(weight).view(-1, *[1] * (weight.ndim - 1))
        return round_through(weight / unit) * unit

    def unit(self, weight: Tensor) -> Tensor:
        largest = weight.detach().abs().flatten(1).amax(1)
        return _positive(torch.where(largest > 0, largest, largest.amax()) / self.high)


@final
class DoReFaWeight(WeightQuantiser):
    """Odd multiples of 1/(2ᵏ − 1): as levels they take a bit more than they hold."""

    def __init__(self, weight: Tensor, *, bits: int, masked: bool) -> None:
        super().__init__(weight, bits=bits, masked=masked)
        self.high = 2**bits - 1
        self.low = -self.high

    def on_grid(self, weight: Tensor) -> Tensor:
        return dorefa(weight, bits=self.bits)

    def unit(self, weight: Tensor) -> Tensor:
        unit = weight.detach().abs().mean() if self.bits == 1 else torch.tensor(1 / self.high)
        return unit.expand(len(weight))


@final
class WrpnWeight(WeightQuantiser):
    """Levels of [−1, 1]."""

    def __init__(self, weight: Tensor, *, bits: int, masked: bool) -> None:
        super().__init__(weight, bits=bits, masked=masked)
        self.high = 2 ** (bits - 1) - 1
        self.low = -self.high

    def on_grid(self, weight: Tensor) -> Tensor:
        return wrpn(weight, bits=self.bits)

    def unit(self, weight: Tensor) -> Tensor:
        return torch.full((len(weight),), 1 / self.high)


@final
class SignWeight(WeightQuantiser):
    """+1 or −1."""

    low, high = -1, 1

    def on_grid(self, weight: Tensor) -> Tensor:
        return sign_clipped(weight)

    def unit(self, weight: Tensor) -> Tensor:
        return torch.ones(len(weight))


@final
class XnorWeight(WeightQuantiser):
    """A sign, and a scale for each output channel."""

    low, high = -1, 1

    def on_grid(self, weight: Tensor) -> Tensor:
        return xnor(weight)

    def unit(self, weight: Tensor) -> Tensor:
        return weight.detach().abs().flatten(1).mean(1)


@final
class TwnWeight(WeightQuantiser):
    """−, 0 or +, and a scale for each output channel."""

    low, high = -1, 1

    def on_grid(self, weight: Tensor) -> Tensor:
        return ternary(weight)

    def unit(self, weight: Tensor) -> Tensor:
        return ternary(weight).detach().abs().flatten(1).amax(1)


@final
class TtqWeight(WeightQuantiser):
    """Three values, of which two learn; as levels, the larger one is worth 127."""

    low, high = -127, 127

    def __init__(self, weight: Tensor, *, bits: int, masked: bool) -> None:
        super().__init__(weight, bits=bits, masked=masked)
        scale = ternary(weight).detach().abs().amax()
        self.plus, self.minus = nn.Parameter(scale.clone()), nn.Parameter(scale.clone())

    def on_grid(self, weight: Tensor) -> Tensor:
        plus, minus = _positive(self.plus), _positive(self.minus)
        unit = torch.maximum(plus, minus).detach() / self.high
        # Both values on one linear grid, so that what ships is what was trained.
        snapped = (round_through(value / unit) * unit for value in (plus, minus))
        return trained_ternary(weight, *snapped)

    def unit(self, weight: Tensor) -> Tensor:
        largest = torch.maximum(_positive(self.plus), _positive(self.minus)).detach()
        return (largest / self.high).expand(len(weight))


WEIGHTS: Final[dict[WeightKind, tuple[type[WeightQuantiser], int, int]]] = {
    "lsq": (LearnedWeight, 2, 8),
    "min-max": (FollowedWeight, 2, 8),
    "dorefa": (DoReFaWeight, 1, 7),
    "wrpn": (WrpnWeight, 2, 8),
    "sign": (SignWeight, 1, 1),
    "xnor": (XnorWeight, 1, 1),
    "twn": (TwnWeight, 2, 2),
    "ttq": (TtqWeight, 2, 2),
}
"""By name: the class, and the least and most bits it is defined for and a byte can store."""


def weight_quantiser(
    kind: WeightKind, weight: Tensor, *, bits: int, masked: bool = False
) -> WeightQuantiser:
    """Returns a fresh quantiser for `weight`. Raises as `check_weight_bits`."""
    check_weight_bits(kind, bits)
    cls, _, _ = WEIGHTS[kind]
    return cls(weight, bits=bits, masked=masked)


def kind_at(kind: WeightKind, bits: int) -> WeightKind:
    """Returns the kind that serves where `kind` is asked for: the plain range at 8 bits.

    Few kinds reach 8 bits, and at none of them is there anything left to learn.
    """
    return kind if bits < 8 else "min-max"


def check_weight_bits(kind: WeightKind, bits: int) -> None:
    """Complains where a kind has no grid of so many bits.

    Raises:
        QuantizeError: naming those it has.
    """
    _, least, most = WEIGHTS[kind]
    if not least <= bits <= most:
        span = f"{least} bit{'s' * (least > 1)}" if least == most else f"{least} to {most} bits"
        raise QuantizeError(f"{kind} weights have {span}, not {bits}: give that many.")


def _positive(step: Tensor) -> Tensor:
    """|step|, off zero: an optimiser's step may carry it across."""
    return step.abs().clamp(min=1e-8)
