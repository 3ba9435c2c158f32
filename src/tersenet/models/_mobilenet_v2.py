"""MobileNetV2: inverted residuals with linear bottlenecks, keys as in torchvision.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018,
arXiv:1801.04381, table 2.
"""

from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.models.blocks import conv_norm, initialise_, scale_channels

__all__ = ["InvertedResidual", "MobileNetV2", "mobilenet_v2", "mobilenet_v2_small"]

STAGES: Final = (
    (1, 16, 1),
    (6, 24, 2),
    (6, 32, 3),
    (6, 64, 4),
    (6, 96, 3),
    (6, 160, 3),
    (6, 320, 1),
)
"""Expansion t, filters c and blocks n of each stage, in the paper's letters."""
STRIDES: Final = (2, 1, 2, 2, 2, 1, 2, 1)
"""Strides of the stem and of each stage's first block."""
SMALL_STRIDES: Final = (1, 1, 2, 2, 2, 1, 1, 1)
"""Strides for 28x28 and 32x32 images: two halvings fewer, so that 4x4 pixels are left to pool."""


@final
class InvertedResidual(nn.Module):
    """1x1 up, 3x3 of each channel, 1x1 down without activation; the sum where shapes agree."""

    def __init__(self, channels: int, filters: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * channels
        self.residual = stride == 1 and channels == filters
        """Whether the input is added to the output."""
        self.conv = nn.Sequential(
            *([] if expansion == 1 else [conv_norm(channels, inner, 1, activation=nn.ReLU6)]),
            conv_norm(inner, inner, stride=stride, groups=inner, activation=nn.ReLU6),
            nn.Conv2d(inner, filters, 1, bias=False),
            nn.BatchNorm2d(filters),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns F(x), plus x where shapes agree."""
        return x + self.conv(x) if self.residual else self.conv(x)


@final
class MobileNetV2(nn.Module):
    """A 3x3 stem, 17 inverted residuals, a 1x1 convolution, pooling, linear."""

    def __init__(
        self, strides: tuple[int, ...], *, width: float, in_channels: int, classes: int
    ) -> None:
        super().__init__()
        channels = scale_channels(32, width)
        modules: list[nn.Module] = [
            conv_norm(in_channels, channels, stride=strides[0], activation=nn.ReLU6)
        ]
        for (expansion, filters, blocks), stride in zip(STAGES, strides[1:], strict=True):
            wider = scale_channels(filters, width)
            for block in range(blocks):
                step = 1 if block else stride
                modules.append(InvertedResidual(channels, wider, stride=step, expansion=expansion))
                channels = wider
        # Below width 1 the last layer keeps its filters: it is cheap and carries the classes.
        last = scale_channels(1280, max(1.0, width))
        modules.append(conv_norm(channels, last, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))
        initialise_(self)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


def mobilenet_v2(*, width: float = 1.0, in_channels: int = 3, classes: int = 1000) -> MobileNetV2:
    """Returns MobileNetV2: 3,504,872 parameters with the defaults.

    Raises:
        StructureError: if `width` is not positive.
    """
    return MobileNetV2(STRIDES, width=width, in_channels=in_channels, classes=classes)


def mobilenet_v2_small(
    *, width: float = 0.5, in_channels: int = 3, classes: int = 10
) -> MobileNetV2:
    """Returns MobileNetV2 for 28x28 and 32x32 images: 700,490 parameters with the defaults.

    Raises:
        StructureError: if `width` is not positive.
    """
    return MobileNetV2(SMALL_STRIDES, width=width, in_channels=in_channels, classes=classes)
