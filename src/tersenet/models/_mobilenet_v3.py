"""MobileNetV3: inverted residuals with hard swish and channel gates, keys as in torchvision.

Howard et al., "Searching for MobileNetV3", 2019, arXiv:1905.02244, tables 1 and 2.
"""

from functools import partial
from typing import Final, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.models.blocks import (
    SqueezeExcitation,
    conv_norm,
    initialise_,
    round_channels,
    scale_channels,
)

__all__ = ["GatedResidual", "MobileNetV3", "hswish", "mobilenet_v3"]

LARGE: Final = (
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
)
"""Kernel, inner channels, filters, gate, activation and stride of each block."""
SMALL: Final = (
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)

_conv_norm = partial(conv_norm, eps=1e-3, momentum=0.01)


def hswish(x: Tensor) -> Tensor:
    """Returns x · relu6(x + 3) / 6, what `nn.Hardswish` computes (section 5.2)."""
    return x * functional.relu6(x + 3) / 6


@final
class GatedResidual(nn.Module):
    """1x1 up, k x k of each channel, a gate, 1x1 down; the sum where shapes agree."""

    def __init__(
        self,
        channels: int,
        filters: int,
        *,
        inner: int,
        kernel: int = 3,
        stride: int = 1,
        gate: bool = True,
        activation: type[nn.Module] = nn.Hardswish,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and channels == filters
        """Whether the input is added to the output."""
        modules: list[nn.Module] = []
        if inner != channels:
            modules.append(_conv_norm(channels, inner, 1, activation=activation))
        modules.append(
            _conv_norm(inner, inner, kernel, stride=stride, groups=inner, activation=activation)
        )
        if gate:
            modules.append(SqueezeExcitation(inner, round_channels(inner // 4)))
        modules.append(_conv_norm(inner, filters, 1, activation=None))
        self.block = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        """Returns F(x), plus x where shapes agree."""
        return x + self.block(x) if self.residual else self.block(x)


@final
class MobileNetV3(nn.Module):
    """A 3x3 stem, gated residuals, a 1x1 convolution, pooling, two linear layers."""

    def __init__(
        self, size: Literal["large", "small"], *, width: float, in_channels: int, classes: int
    ) -> None:
        super().__init__()
        table, last = (LARGE, 1280) if size == "large" else (SMALL, 1024)
        channels = scale_channels(16, width)
        modules: list[nn.Module] = [
            _conv_norm(in_channels, channels, stride=2, activation=nn.Hardswish)
        ]
        for kernel, inner, filters, gate, activation, stride in table:
            wider = scale_channels(filters, width)
            modules.append(
                GatedResidual(
                    channels,
                    wider,
                    inner=scale_channels(inner, width),
                    kernel=kernel,
                    stride=stride,
                    gate=gate,
                    activation=activation,
                )
            )
            channels = wider
        modules.append(_conv_norm(channels, 6 * channels, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*modules)
        last = scale_channels(last, width)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, last),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(last, classes),
        )
        initialise_(self)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


def mobilenet_v3(
    *,
    size: Literal["large", "small"] = "large",
    width: float = 1.0,
    in_channels: int = 3,
    classes: int = 1000,
) -> MobileNetV3:
    """Returns MobileNetV3: 5,483,032 parameters if large, 2,542,856 if small.

    Raises:
        StructureError: if `width` is not positive.
    """
    return MobileNetV3(size, width=width, in_channels=in_channels, classes=classes)
