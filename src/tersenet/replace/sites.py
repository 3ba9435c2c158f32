"""The ordinary convolutions of any network: which there are, and why not the others."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal, cast, final

from torch import Tensor, nn, no_grad
from torch.nn.modules.conv import _ConvNd

from tersenet.core.types import Skip
from tersenet.graph.trace import evaluating

__all__ = ["Convolution", "convolutions"]

Pair = tuple[int, int]


@final
@dataclass(frozen=True, kw_only=True)
class Convolution:
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
        kernel, makes = ("×".join(map(str, one)) for one in (self.kernel, self.makes))
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
) -> tuple[dict[str, Convolution], list[Skip]]:
    """Returns what can be replaced, by name, in the order of execution; the others with reasons.

    Linear layers are no convolutions and are not named.
    """
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _ConvNd):
            names[module].append(name)
    owners: dict[int, set[str]] = defaultdict(set)
    for name, value in model.named_parameters(remove_duplicate=False):
        owners[id(value)].add(name)
    calls: dict[nn.Module, list[tuple[Pair, Pair]]] = {}
    handles = [one.register_forward_hook(_noting(calls)) for one in names]
    try:
        with evaluating(model), no_grad():
            model(*example)
    finally:
        for handle in handles:
            handle.remove()
    found, skips = {}, []
    for module in (*calls, *(one for one in names if one not in calls)):
        name, seen = names[module][0], calls.get(module, [])
        reason = _why_not(module, names[module], owners, len(seen))
        if reason is None and isinstance(module, nn.Conv2d):
            found[name] = _described(module, *seen[0])
        else:
            skips.append(Skip(name, reason or ""))
    return found, skips


def _noting(calls: dict[nn.Module, list[tuple[Pair, Pair]]]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes = (_image(inputs[0]), _image(output)) if inputs else ((0, 0), (0, 0))
        calls.setdefault(module, []).append(sizes)

    return hook


def _image(x: Tensor) -> Pair:
    return (int(x.shape[-2]), int(x.shape[-1])) if x.ndim > 2 else (0, 0)


def _why_not(
    module: nn.Module, names: list[str], owners: dict[int, set[str]], calls: int
) -> str | None:
    if type(module) is not nn.Conv2d:
        return f"it is a {type(module).__name__}: only plain 2-d convolutions are replaced"
    weight = module._parameters.get("weight")  # noqa: SLF001 (a computed weight is no parameter)
    others = (set(names) | owners[id(weight)]) - {names[0], f"{names[0]}.weight"}
    reasons = {
        f"it is in {module.groups} groups already": module.groups > 1,
        "it is 1×1: there is no neighbourhood to treat apart": math.prod(module.kernel_size) == 1,
        "its weight is computed, or no parameter": weight is None,
        f"it is shared with {', '.join(sorted(others))}": bool(others),
        f"forward() calls it {calls} times, not once": calls != 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _described(module: nn.Conv2d, reads: Pair, makes: Pair) -> Convolution:
    return Convolution(
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
