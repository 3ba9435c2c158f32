"""MobileNet: depthwise separable convolutions.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017, arXiv:1704.04861, section 3 and table 1.
"""

from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.models.blocks import conv_norm, initialise_, scale_channels

__all__ = ["MobileNetV1", "mobilenet_v1", "separable_block", "separable_macs", "standard_macs"]

STAGES: Final = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5)
"""Filters and stride of each block; two more of 1024 filters follow."""


def separable_block(channels: int, filters: int, *, stride: int = 1) -> nn.Sequential:
    """Returns a 3x3 convolution of each channel, then 1x1 across channels, both normalised."""
    depthwise = conv_norm(channels, channels, stride=stride, groups=channels)
    return nn.Sequential(depthwise, conv_norm(channels, filters, 1))


def standard_macs(channels: int, filters: int, *, kernel: int, side: int) -> int:
    """Returns D_k² · C_in · C_out · D_f², for an output of `side` × `side` (section 3.1)."""
    return kernel**2 * channels * filters * side**2


def separable_macs(channels: int, filters: int, *, kernel: int, side: int) -> int:
    """Returns (D_k² + C_out) · C_in · D_f²: 1/C_out + 1/D_k² of the standard convolution's."""
    return (kernel**2 + filters) * channels * side**2


@final
class MobileNetV1(nn.Module):
    """A 3x3 stem and 13 separable blocks, pooling, linear."""

    def __init__(self, *, width: float, in_channels: int, classes: int) -> None:
        super().__init__()
        channels = scale_channels(32, width)
        blocks = [conv_norm(in_channels, channels, stride=2)]
        for filters, stride in (*STAGES, (1024, 2), (1024, 1)):
            wider = scale_channels(filters, width)
            blocks.append(separable_block(channels, wider, stride=stride))
            channels = wider
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, classes)
        initialise_(self)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


def mobilenet_v1(*, width: float = 1.0, in_channels: int = 3, classes: int = 1000) -> MobileNetV1:
    """Returns MobileNet: 4,231,976 parameters with the defaults.

    Raises:
        StructureError: if `width` is not positive.
    """
    return MobileNetV1(width=width, in_channels=in_channels, classes=classes)
