"""The ordinary convolutions of any network: which there are, and why not the others."""

import math
from dataclasses import dataclass
from typing import Any, Literal, cast, final

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tersenet.core.types import Skip
from tersenet.graph.modules import Shape, calls_of, owners

__all__ = ["PlainConvolution", "convolutions"]

Pair = tuple[int, int]


@final
@dataclass(frozen=True, kw_only=True)
class PlainConvolution:
    """An ordinary 2-d convolution: what a block in its place must agree with."""

    channels: int
    filters: int
    kernel: Pair
    stride: Pair
    padding: Pair | Literal["same", "valid"]
    dilation: Pair
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]
    bias: bool
    reads: Pair
    """Height and width of its input."""
    makes: Pair
    """Height and width of its output."""

    def __str__(self) -> str:
        kernel, makes = ("×".join(map(str, size)) for size in (self.kernel, self.makes))
        return f"conv {kernel}, {self.channels} → {self.filters}, at {makes}"

    @property
    def taps(self) -> int:
        """k²: entries of the kernel for each pair of channels."""
        return math.prod(self.kernel)

    @property
    def macs(self) -> int:
        """k² · c · n · h · w."""
        return self.taps * self.channels * self.filters * math.prod(self.makes)

    def spatial(
        self, channels: int, filters: int, *, groups: int = 1, bias: bool = False
    ) -> nn.Conv2d:
        """Returns a convolution that slides over the image as this one does."""
        return nn.Conv2d(
            channels,
            filters,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            groups=groups,
            bias=bias,
            padding_mode=self.padding_mode,
        )

    def plain(self) -> nn.Conv2d:
        """Returns a convolution of this description, its weights as initialised."""
        return self.spatial(self.channels, self.filters, bias=self.bias)


def convolutions(
    model: nn.Module, example: tuple[Tensor, ...]
) -> tuple[dict[str, PlainConvolution], list[Skip]]:
    """Returns what can be replaced, by name, in the order of execution; the others with reasons.

    Linear layers are no convolutions and are not named.
    """
    known = {name: module for name, module in model.named_modules() if isinstance(module, _ConvNd)}
    calls = calls_of(model, known, example)
    names = owners(model)
    found, skips = {}, []
    for name in dict.fromkeys((*calls, *known)):
        module, seen = known[name], calls.get(name, [])
        reason = _why_not(name, module, names, len(seen))
        if reason is None and isinstance(module, nn.Conv2d):
            found[name] = _describe(module, _image(seen[0].reads), _image(seen[0].makes))
        else:
            skips.append(Skip(name, reason or ""))
    return found, skips


def _image(shape: Shape | None) -> Pair:
    return (shape[-2], shape[-1]) if shape and len(shape) > 2 else (0, 0)


def _why_not(
    name: str, module: nn.Module, names: dict[int, list[tuple[str, nn.Module]]], calls: int
) -> str | None:
    if type(module) is not nn.Conv2d:
        return f"it is a {type(module).__name__}: only plain 2-d convolutions are replaced"
    weight = module._parameters.get("weight")  # noqa: SLF001 (a computed weight is no parameter)
    others = {own for own, _ in names.get(id(weight), ())} - {f"{name}.weight"}
    reasons = {
        f"it is in {module.groups} groups already": module.groups > 1,
        "it is 1×1: there is no neighbourhood to treat apart": math.prod(module.kernel_size) == 1,
        "its weight is computed, or no parameter": weight is None,
        f"it is shared with {', '.join(sorted(others))}": bool(others),
        f"forward() calls it {calls} times, not once": calls != 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _describe(module: nn.Conv2d, reads: Pair, makes: Pair) -> PlainConvolution:
    return PlainConvolution(
        channels=module.in_channels,
        filters=module.out_channels,
        kernel=(module.kernel_size[0], module.kernel_size[1]),
        stride=(module.stride[0], module.stride[1]),
        padding=cast("Any", module.padding),
        dilation=(module.dilation[0], module.dilation[1]),
        padding_mode=cast("Any", module.padding_mode),
        bias=module.bias is not None,
        reads=reads,
        makes=makes,
    )
