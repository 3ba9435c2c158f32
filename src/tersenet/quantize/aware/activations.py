"""Quantisers of activations, as modules that training may hold parameters in."""

import abc
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from tersenet.errors import QuantizeError
from tersenet.quantize.aware.formulas.dorefa import dorefa_activation
from tersenet.quantize.aware.formulas.lsq import first_step, lsq, lsq_plus
from tersenet.quantize.aware.formulas.pact import pact
from tersenet.quantize.aware.formulas.straight import sign_clipped

__all__ = [
    "ACTIVATIONS",
    "ActivationKind",
    "ActivationQuantiser",
    "SeenActivation",
    "activation_quantiser",
]

ActivationKind: TypeAlias = Literal["lsq", "lsq+", "pact", "dorefa", "wrpn", "sign", "ema"]


@final
@dataclass(frozen=True, kw_only=True)
class SeenActivation:
    """What an activation was on the calibration samples."""

    low: float
    high: float
    mean_magnitude: float


class ActivationQuantiser(nn.Module, abc.ABC):
    """An activation in, its levels' reals out; gradients pass. Levels are 0 to 2**bits − 1."""

    most_bits: ClassVar[int] = 8
    negatives: ClassVar[bool] = True
    """Whether its grid holds values of either sign."""
    signs: ClassVar[bool] = False
    """Whether it keeps signs alone, which are read before the ReLU: after it there is but one."""

    def __init__(self, seen: SeenActivation, *, bits: int) -> None:
        super().__init__()
        del seen
        self.bits = bits

    @property
    def top(self) -> int:
        """The largest level."""
        return 2**self.bits - 1

    def decayed(self) -> Tensor:
        """Returns half the square of what is to be kept small."""
        return torch.zeros(())

    def begin(self, step: Tensor, zero: int) -> None:
        """Starts from a grid found before, where this kind has it."""

    @abc.abstractmethod
    def grid(self) -> tuple[Tensor, Tensor]:
        """Returns the reals that one level is worth, and the level of zero, whole."""


@final
class LearnedActivation(ActivationQuantiser):
    """LSQ: zero is the lowest level, or the middle one of values of either sign."""

    zero: Tensor

    def __init__(self, seen: SeenActivation, *, bits: int) -> None:
        super().__init__(seen, bits=bits)
        zero = 0 if seen.low >= 0 else 2 ** (bits - 1)
        self.register_buffer("zero", torch.tensor(float(zero)))
        self.low, self.high = -zero, self.top - zero
        start = first_step(torch.tensor(seen.mean_magnitude), high=self.high)
        self.step = nn.Parameter(start)

    def begin(self, step: Tensor, zero: int) -> None:
        if zero == int(self.zero):
            with torch.no_grad():
                self.step.copy_(step)

    def forward(self, x: Tensor) -> Tensor:
        return lsq(x, _positive(self.step), low=self.low, high=self.high)

    def grid(self) -> tuple[Tensor, Tensor]:
        return _positive(self.step).detach(), self.zero


@final
class LearnedOffset(ActivationQuantiser):
    """LSQ+: the level of zero learns too."""

    def __init__(self, seen: SeenActivation, *, bits: int) -> None:
        super().__init__(seen, bits=bits)
        low, high = min(seen.low, 0.0), max(seen.high, 0.0)
        self.step = nn.Parameter(torch.tensor((high - low) / self.top))
        self.zero = nn.Parameter(torch.tensor(-low / (high - low) * self.top))

    def begin(self, step: Tensor, zero: int) -> None:
        with torch.no_grad():
            self.step.copy_(step)
            self.zero.fill_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return lsq_plus(x, _positive(self.step), self.zero, low=0, high=self.top)

    def grid(self) -> tuple[Tensor, Tensor]:
        return _positive(self.step).detach(), self.zero.detach().clamp(0, self.top).round()


@final
class PactActivation(ActivationQuantiser):
    """Clipped at a bound that learns."""

    negatives: ClassVar[bool] = False

    def __init__(self, seen: SeenActivation, *, bits: int) -> None:
        super().__init__(seen, bits=bits)
        self.bound = nn.Parameter(torch.tensor(seen.high))

    def begin(self, step: Tensor, zero: int) -> None:
        if zero == 0:
            with torch.no_grad():
                self.bound.copy_(step * self.top)

    def forward(self, x: Tensor) -> Tensor:
        return pact(x, _positive(self.bound), bits=self.bits)

    def decayed(self) -> Tensor:
        return self.bound.square().sum() / 2

    def grid(self) -> tuple[Tensor, Tensor]:
        return _positive(self.bound).detach() / self.top, torch.zeros(())


@final
class ClippedActivation(ActivationQuantiser):
    """Clipped to [0, 1]: DoReFa and WRPN."""

    negatives: ClassVar[bool] = False

    def forward(self, x: Tensor) -> Tensor:
        return dorefa_activation(x, bits=self.bits)

    def grid(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(1 / self.top), torch.zeros(())


@final
class SignActivation(ActivationQuantiser):
    """+1 or −1: of what stands before the ReLU, whose output has one sign alone."""

    most_bits: ClassVar[int] = 1
    signs: ClassVar[bool] = True

    def forward(self, x: Tensor) -> Tensor:
        return sign_clipped(x)

    def grid(self) -> tuple[Tensor, Tensor]:
        return torch.ones(()), torch.zeros(())


@final
class AveragedActivation(ActivationQuantiser):
    """The range of each batch, averaged exponentially while training.

    Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2017, arXiv:1712.05877, section 3.1:
    range ← m range + (1 − m) batch's range.
    """

    momentum = 0.99
    low: Tensor
    high: Tensor

    def __init__(self, seen: SeenActivation, *, bits: int) -> None:
        super().__init__(seen, bits=bits)
        self.register_buffer("low", torch.tensor(min(seen.low, 0.0)))
        self.register_buffer("high", torch.tensor(max(seen.high, 0.0)))

    def begin(self, step: Tensor, zero: int) -> None:
        self.low.copy_(-zero * step)
        self.high.copy_((self.top - zero) * step)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                low, high = x.aminmax()
                self.low.lerp_(low.clamp(max=0), 1 - self.momentum)
                self.high.lerp_(high.clamp(min=0), 1 - self.momentum)
        step, zero = self.grid()
        return torch.fake_quantize_per_tensor_affine(x, step, zero.int(), 0, self.top)

    def grid(self) -> tuple[Tensor, Tensor]:
        step = (self.high - self.low).clamp(min=1e-8) / self.top
        return step, (-self.low / step).round()


ACTIVATIONS: Final[dict[ActivationKind, type[ActivationQuantiser]]] = {
    "lsq": LearnedActivation,
    "lsq+": LearnedOffset,
    "pact": PactActivation,
    "dorefa": ClippedActivation,
    "wrpn": ClippedActivation,
    "sign": SignActivation,
    "ema": AveragedActivation,
}


def activation_quantiser(
    kind: ActivationKind, seen: SeenActivation, *, bits: int
) -> ActivationQuantiser:
    """Returns a fresh quantiser; kinds that cut off what is negative give way to `ema` there.

    Raises:
        QuantizeError: if bits are not 1 to 8, or one bit is due to values of either sign.
    """
    cls = ACTIVATIONS[kind]
    if not 1 <= bits <= cls.most_bits:
        span = "1 bit" if cls.most_bits == 1 else f"1 to {cls.most_bits} bits"
        raise QuantizeError(f"{kind} activations have {span}, not {bits}: give that many.")
    if seen.low < 0 and not cls.signs:
        if bits == 1:
            raise QuantizeError(
                "an activation of either sign has no grid of one bit that holds zero: give it two."
            )
        cls = cls if cls.negatives else AveragedActivation
    return cls(seen, bits=bits)


def _positive(step: Tensor) -> Tensor:
    return step.abs().clamp(min=1e-8)
