"""Residual networks for 224x224 images, keys as in torchvision.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385,
table 1. As in torchvision, a bottleneck halves the image in its 3x3 convolution, not its first.
"""

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tersenet.models.blocks import initialise_

__all__ = ["ImageNetResNet", "resnet18", "resnet50"]


@final
class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion: ClassVar = 1

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(channels, width, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(F(x) + shortcut(x))."""
        residual = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(residual)) + self.downsample(x))


@final
class StridedBottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, and a shortcut."""

    expansion: ClassVar = 4

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        wider = self.expansion * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wider, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wider)
        self.relu = nn.ReLU()
        self.downsample = _downsample(channels, wider, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(F(x) + shortcut(x))."""
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        return self.relu(self.bn3(self.conv3(residual)) + self.downsample(x))


@final
class ImageNetResNet(nn.Module):
    """A 7x7 stem, four stages at widths 64 to 512, pooling, linear."""

    def __init__(
        self,
        block: type[Basic] | type[StridedBottleneck],
        depths: tuple[int, int, int, int],
        *,
        in_channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        e = block.expansion
        self.layer1 = _stage(block, 64, 64, depths[0], stride=1)
        self.layer2 = _stage(block, 64 * e, 128, depths[1], stride=2)
        self.layer3 = _stage(block, 128 * e, 256, depths[2], stride=2)
        self.layer4 = _stage(block, 256 * e, 512, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * e, classes)
        initialise_(self)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _downsample(channels: int, wider: int, *, stride: int) -> nn.Sequential:
    """Returns a projection, or nothing where the shapes agree."""
    if stride == 1 and channels == wider:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(channels, wider, 1, stride, bias=False), nn.BatchNorm2d(wider))


def _stage(
    block: type[Basic] | type[StridedBottleneck],
    channels: int,
    width: int,
    depth: int,
    *,
    stride: int,
) -> nn.Sequential:
    first = block(channels, width, stride=stride)
    rest = [block(width * block.expansion, width, stride=1) for _ in range(depth - 1)]
    return nn.Sequential(first, *rest)


def resnet18(*, in_channels: int = 3, classes: int = 1000) -> ImageNetResNet:
    """Returns ResNet-18: 11,689,512 parameters with the defaults."""
    return ImageNetResNet(Basic, (2, 2, 2, 2), in_channels=in_channels, classes=classes)


def resnet50(*, in_channels: int = 3, classes: int = 1000) -> ImageNetResNet:
    """Returns ResNet-50: 25,557,032 parameters with the defaults, 102.23 MB in fp32."""
    return ImageNetResNet(StridedBottleneck, (3, 4, 6, 3), in_channels=in_channels, classes=classes)
