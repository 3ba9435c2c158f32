"""Which convolutions may be given to PyTorch with a backward pass, and how the others are.

On a CPU, channels last in memory is the fastest layout to train in, and `fit` trains in it. Two
classes of convolutions must not reach PyTorch so, nor must any that a user hands over in that
layout. Both were seen with PyTorch 2.13.0, which brings oneDNN 3.12.0 (80afa71).

*Strided by 1 x 1*: kernel 1, a stride over 1, no groups, and fewer channels than a vector register
holds (8 floats with AVX2, 16 with AVX-512) on the side that is strided over: the inputs of a
convolution, the outputs of a transposed one. The gradient by such a weight first gathers the
strided image into a workspace. Rows are as wide as the channels, room is taken
for as many, but each part of the image begins at `position * block` instead of
`position * channels`, behind the end of the workspace. What follows is a segmentation fault, a
heap error, an endless loop, or other tensors silently wrong. uxlfoundation/oneDNN issue 6035.
Each of these was provoked: on AVX2 with images from 8 x 8 on, on AVX-512 from 48 x 48 on (a
smaller one is gather in one part, which begins at 0), in float32 and in bfloat16.

A kernel of 1 reads every s-th position and nothing else, so the same convolution with stride 1 of
`x[:, :, ::s, ::s]` is equal to it, and does no more work.

*Dilated, in bfloat16*: where the processor multiplies bfloat16 itself, the gradient by the weight
is NaN or of another order of magnitude (of 500 random convolutions all that were wrong had a
dilation over 1, whatever their groups; all are right in float32). These are computed in float32.

`SafeConvolutions` puts the one and the other in their place. It asks neither for the processor nor
for the layout: the newest processor is unknown, and a layout is a matter of strides that any
operation before may change. All other convolutions are left alone, bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["SafeConvolutions"]

_BLOCK: Final = 16
"""Channels in the widest block that a kernel gathers by: floats in a register of 512 bits."""


@final
class SafeConvolutions(TorchFunctionMode):
    """Within it, gradients by the weights of convolutions are right whatever their layout.

    Enter it around the forward pass *and* the backward pass (a checkpointed segment runs forward
    again in the latter). What calls a convolution does not matter: a module, a function, or a
    node of an exported program. What TorchScript runs is not seen.

        with SafeConvolutions():
            loss(model(inputs), targets).backward()
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = _READERS.get(func)
        if read is not None and torch.is_grad_enabled():
            call = read(*args, **(kwargs or {}))
            if call.overruns:
                return call.gather()
            if call.garbles:
                return call.widen()
        return func(*args, **(kwargs or {}))


@final
@dataclass(frozen=True, kw_only=True)
class _Call:
    """A convolution with its arguments, however it was called."""

    input: Tensor
    weight: Tensor  # (output, input / groups, …), or (input, output / groups, …) if transposed
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    output_padding: tuple[int, ...]

    @property
    def overruns(self) -> bool:
        """Whether the gradient by the weight would be written behind its workspace."""
        if self.weight.shape[1] >= _BLOCK or self.weight.shape[2:].numel() > 1:
            return False
        if self.groups > 1 or max(self.stride) == 1 or self.input.device.type != "cpu":
            return False
        if isinstance(self.padding, str):
            return self.padding == "valid"
        # An image is strided over by parts if it is s times as wide as the other one.
        return not any(self.padding) and all(
            end < step for end, step in zip(self._ends(), self._steps(), strict=True)
        )

    @property
    def garbles(self) -> bool:
        """Whether the gradient by the weight would be computed in 16 bits with dilation."""
        return (
            max(self.dilation) > 1
            and self.input.device.type == "cpu"
            and self._precision in _HALVES
        )

    def gather(self) -> Tensor:
        """Returns the same outputs by a stride of 1."""
        return self._spread_out() if self.transposed else self._pick()

    def _pick(self) -> Tensor:
        picks = (..., *(slice(None, None, step) for step in self._steps()))
        return self._by_one(self.input[picks], self.bias)

    def _spread_out(self) -> Tensor:
        """A transposed convolution writes every s-th position; between them is the bias."""
        few = self._by_one(self.input, None)
        steps, sizes = self._steps(), few.shape[-self._axes :]
        whole = [
            (size - 1) * step + 1 + end
            for size, step, end in zip(sizes, steps, self._ends(), strict=True)
        ]
        spread = few.new_zeros((*few.shape[: -self._axes], *whole))
        spread[(..., *(slice(None, None, step) for step in steps))] = few
        if self.bias is None:
            return spread
        return spread + self.bias.view(-1, *[1] * self._axes).to(spread.dtype)

    def widen(self) -> Tensor:
        """Returns the outputs computed in float32, in the precision asked for."""
        functions = _TRANSPOSED if self.transposed else _STRAIGHT
        function: Callable[..., Tensor] = functions[self._axes - 1]
        rest: dict[str, Any] = {"output_padding": self.output_padding} if self.transposed else {}
        with torch.autocast("cpu", enabled=False):
            wide = function(
                self.input.float(),
                self.weight.float(),
                None if self.bias is None else self.bias.float(),
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                groups=self.groups,
                **rest,
            )
        return wide.to(self._precision)

    @property
    def _precision(self) -> torch.dtype:
        """What PyTorch would multiply in."""
        if torch.is_autocast_enabled("cpu") and self.input.dtype is torch.float32:
            return torch.get_autocast_dtype("cpu")
        return self.input.dtype

    def _by_one(self, values: Tensor, bias: Tensor | None) -> Tensor:
        functions = _TRANSPOSED if self.transposed else _STRAIGHT
        return functions[self._axes - 1](values, self.weight, bias)

    @property
    def _axes(self) -> int:
        return self.weight.ndim - 2

    def _steps(self) -> tuple[int, ...]:
        return self.stride * (self._axes if len(self.stride) == 1 else 1)

    def _ends(self) -> tuple[int, ...]:
        return self.output_padding * (self._axes if len(self.output_padding) == 1 else 1)


_STRAIGHT: Final = (torch.conv1d, torch.conv2d, torch.conv3d)
_TRANSPOSED: Final = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
_HALVES: Final = (torch.bfloat16, torch.float16)
_Sizes = int | Sequence[int]


def _read(
    input: Tensor,  # noqa: A002 # as PyTorch names it
    weight: Tensor,
    bias: Tensor | None,
    stride: _Sizes,
    padding: _Sizes | str,
    dilation: _Sizes,
    transposed: bool,
    output_padding: _Sizes,
    groups: int,
    *_: bool,
) -> _Call:
    """Takes the arguments of `torch.convolution`."""
    return _Call(
        input=input,
        weight=weight,
        bias=bias,
        stride=_sizes(stride),
        padding=padding if isinstance(padding, str) else _sizes(padding),
        dilation=_sizes(dilation),
        groups=groups,
        transposed=transposed,
        output_padding=_sizes(output_padding),
    )


def _read_straight(
    input: Tensor,  # noqa: A002 # as PyTorch names it
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Sizes = 1,
    padding: _Sizes | str = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> _Call:
    return _read(input, weight, bias, stride, padding, dilation, False, 0, groups)


def _read_transposed(
    input: Tensor,  # noqa: A002 # as PyTorch names it
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    output_padding: _Sizes = 0,
    groups: int = 1,
    dilation: _Sizes = 1,
) -> _Call:
    return _read(input, weight, bias, stride, padding, dilation, True, output_padding, groups)


def _sizes(value: _Sizes) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _readers() -> Mapping[Any, Callable[..., _Call]]:
    """Returns what reads the arguments, for each of PyTorch's names for a convolution."""
    aten = torch.ops.aten
    packets = {
        _read_straight: (aten.conv1d, aten.conv2d, aten.conv3d),
        _read_transposed: (aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d),
        _read: (aten.convolution, aten._convolution),  # noqa: SLF001 # as old graphs name it
    }
    found: dict[Any, Callable[..., _Call]] = dict.fromkeys(_STRAIGHT, _read_straight)
    found |= dict.fromkeys(_TRANSPOSED, _read_transposed)
    found[torch.convolution] = _read
    for read, named in packets.items():
        for packet in named:
            found |= {getattr(packet, overload): read for overload in packet.overloads()}
            found[packet] = read
    return found


_READERS: Final = _readers()
