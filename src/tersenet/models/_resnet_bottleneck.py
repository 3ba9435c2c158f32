"""Bottleneck residual networks for 32x32 images, plain and pre-activated.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385
(the block), and "Identity Mappings in Deep Residual Networks", 2016, arXiv:1603.05027 (the
pre-activated block). These are the baselines of Nurchalifah, "A Comparative Inference
Evaluation of Deep Neural Network Compression Methods", 2020, table 1: its "ResNet-56" has 9
such blocks a stage, hence 83 layers, and its "PreResNet-110" has 12.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.errors import StructureError

__all__ = ["BottleneckResNet", "preresnet_bottleneck", "resnet_bottleneck"]

EXPANSION = 4
"""Output channels of a block per channel of its 3x3 convolution."""


@final
class PlainBottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, each followed by batch norm; the sum is rectified."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        wider = EXPANSION * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wider, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wider)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != wider:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, wider, 1, stride, bias=False), nn.BatchNorm2d(wider)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(F(x) + shortcut(x))."""
        residual = functional.relu(self.bn1(self.conv1(x)))
        residual = functional.relu(self.bn2(self.conv2(residual)))
        return functional.relu(self.bn3(self.conv3(residual)) + self.shortcut(x))


@final
class PreBottleneck(nn.Module):
    """The same three convolutions, each preceded by batch norm; the sum stays as it is."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        wider = EXPANSION * width
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wider, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != wider:
            self.shortcut = nn.Conv2d(channels, wider, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns F(x) + shortcut(x)."""
        residual = self.conv1(functional.relu(self.bn1(x)))
        residual = self.conv2(functional.relu(self.bn2(residual)))
        return self.conv3(functional.relu(self.bn3(residual))) + self.shortcut(x)


@final
class BottleneckResNet(nn.Module):
    """A 3x3 stem, three stages of `blocks` bottlenecks at widths 16, 32, 64, pooling, linear."""

    def __init__(
        self, blocks: int, *, preactivated: bool, in_channels: int, classes: int, width: int
    ) -> None:
        super().__init__()
        block = PreBottleneck if preactivated else PlainBottleneck
        last = 4 * width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        # Pre-activated blocks leave their sum un-normalised: one batch norm closes the last.
        self.bn1 = nn.Identity() if preactivated else nn.BatchNorm2d(width)
        self.stage1 = _stage(block, width, width, blocks, stride=1)
        self.stage2 = _stage(block, EXPANSION * width, 2 * width, blocks, stride=2)
        self.stage3 = _stage(block, EXPANSION * 2 * width, 4 * width, blocks, stride=2)
        self.bn2 = nn.BatchNorm2d(last) if preactivated else nn.Identity()
        self.linear = nn.Linear(last, classes)
        self.preactivated = preactivated
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        x = self.conv1(x)
        if not self.preactivated:
            x = functional.relu(self.bn1(x))
        x = self.stage3(self.stage2(self.stage1(x)))
        if self.preactivated:
            x = functional.relu(self.bn2(x))
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def _stage(
    block: type[PlainBottleneck] | type[PreBottleneck],
    channels: int,
    width: int,
    blocks: int,
    *,
    stride: int,
) -> nn.Sequential:
    first = block(channels, width, stride=stride)
    rest = [block(EXPANSION * width, width, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def resnet_bottleneck(
    *, blocks: int = 9, in_channels: int = 3, classes: int = 10, width: int = 16
) -> BottleneckResNet:
    """Returns a ResNet of 9 * `blocks` + 2 layers.

    With the defaults it is the network that the source calls ResNet-56: 869,530 parameters.

    Raises:
        StructureError: if `blocks` is not positive.
    """
    _positive(blocks)
    return BottleneckResNet(
        blocks, preactivated=False, in_channels=in_channels, classes=classes, width=width
    )


def preresnet_bottleneck(
    *, blocks: int = 12, in_channels: int = 3, classes: int = 10, width: int = 16
) -> BottleneckResNet:
    """Returns a pre-activated ResNet of 9 * `blocks` + 2 layers.

    With the defaults it is the source's PreResNet-110: 1,146,842 parameters.

    Raises:
        StructureError: if `blocks` is not positive.
    """
    _positive(blocks)
    return BottleneckResNet(
        blocks, preactivated=True, in_channels=in_channels, classes=classes, width=width
    )


def _positive(blocks: int) -> None:
    if blocks < 1:
        raise StructureError(f"a stage of {blocks} blocks cannot be built: take 1 or more.")
