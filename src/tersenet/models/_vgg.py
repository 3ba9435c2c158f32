"""VGG networks, keys as in torchvision, and a small one for 28x28 and 32x32 images.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
2014, arXiv:1409.1556, table 1, columns D and E. Batch norm: Ioffe, Szegedy, 2015,
arXiv:1502.03167.
"""

from collections.abc import Sequence
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tersenet.errors import StructureError
from tersenet.models.blocks import initialise_, require_sides

__all__ = ["VGG", "SmallVGG", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vgg_small"]

WIDTHS: Final = (64, 128, 256, 512, 512)
"""Filters of each stage; a stage ends with pooling."""
DEPTHS: Final = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each stage, by the number of layers."""


@final
class VGG(nn.Module):
    """Stages of 3x3 convolutions and three linear layers, for images of 32 pixels or more."""

    def __init__(self, layers: int, *, norm: bool, in_channels: int, classes: int) -> None:
        super().__init__()
        self.features = _stages(WIDTHS, DEPTHS[layers], in_channels=in_channels, norm=norm)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(WIDTHS[-1] * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )
        initialise_(self)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits.

        Raises:
            StructureError: if a side is shorter than 32 pixels.
        """
        require_sides(x, 32, network="VGG", instead="enlarge them, or take vgg-small")
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


@final
class SmallVGG(nn.Module):
    """Three stages of two normalised 3x3 convolutions, global pooling, linear."""

    def __init__(self, *, in_channels: int, classes: int, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.features = _stages(widths, (2, 2, 2), in_channels=in_channels, norm=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], classes)
        initialise_(self)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def _stages(
    widths: Sequence[int], depths: Sequence[int], *, in_channels: int, norm: bool
) -> nn.Sequential:
    modules: list[nn.Module] = []
    channels = in_channels
    for width, depth in zip(widths, depths, strict=True):
        for _ in range(depth):
            modules.append(nn.Conv2d(channels, width, 3, padding=1))
            modules += [nn.BatchNorm2d(width)] if norm else []
            modules.append(nn.ReLU())
            channels = width
        modules.append(nn.MaxPool2d(2))
    return nn.Sequential(*modules)


def vgg16(*, in_channels: int = 3, classes: int = 1000) -> VGG:
    """Returns VGG-16: 138,357,544 parameters with the defaults, 553.43 MB in fp32."""
    return VGG(16, norm=False, in_channels=in_channels, classes=classes)


def vgg16_bn(*, in_channels: int = 3, classes: int = 1000) -> VGG:
    """Returns VGG-16 with batch norm: 138,365,992 parameters with the defaults."""
    return VGG(16, norm=True, in_channels=in_channels, classes=classes)


def vgg19(*, in_channels: int = 3, classes: int = 1000) -> VGG:
    """Returns VGG-19: 143,667,240 parameters with the defaults."""
    return VGG(19, norm=False, in_channels=in_channels, classes=classes)


def vgg19_bn(*, in_channels: int = 3, classes: int = 1000) -> VGG:
    """Returns VGG-19 with batch norm: 143,678,248 parameters with the defaults."""
    return VGG(19, norm=True, in_channels=in_channels, classes=classes)


def vgg_small(*, in_channels: int = 3, classes: int = 10, width: int = 64) -> SmallVGG:
    """Returns a VGG of six convolutions: 1,149,770 parameters with the defaults.

    Raises:
        StructureError: if `width` is not positive.
    """
    if width < 1:
        raise StructureError(f"a first stage of {width} filters cannot be built: take 1 or more.")
    return SmallVGG(in_channels=in_channels, classes=classes, width=width)
