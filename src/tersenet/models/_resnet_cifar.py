"""Residual networks of the CIFAR family, 6n+2 layers deep.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015,
arXiv:1512.03385, section 4.2. Shortcuts that change width are parameter-free zero padding
(option A) or a 1x1 projection (option B).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.errors import StructureError

__all__ = ["CifarResNet", "resnet"]


class PadShortcut(nn.Module):
    """Option A: every second pixel, new channels filled with zeros on both sides."""

    def __init__(self, channels: int, wider: int) -> None:
        super().__init__()
        self.before = (wider - channels) // 2
        self.after = wider - channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Halves the image and pads the channels."""
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int, wider: int, *, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, wider, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wider)
        self.conv2 = nn.Conv2d(wider, wider, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wider)
        if stride == 1 and channels == wider:
            self.shortcut = nn.Identity()
        elif option == "A":
            self.shortcut = PadShortcut(channels, wider)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, wider, 1, stride, bias=False), nn.BatchNorm2d(wider)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(F(x) + shortcut(x))."""
        residual = functional.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return functional.relu(residual + self.shortcut(x))


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages of `depth` blocks at widths w, 2w, 4w, pooling, linear."""

    def __init__(
        self, blocks: int, *, option: str, in_channels: int, classes: int, width: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stage1 = _stage(width, width, blocks, stride=1, option=option)
        self.stage2 = _stage(width, 2 * width, blocks, stride=2, option=option)
        self.stage3 = _stage(2 * width, 4 * width, blocks, stride=2, option=option)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        x = torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1)
        return self.linear(x)


def _stage(channels: int, wider: int, blocks: int, *, stride: int, option: str) -> nn.Sequential:
    first = BasicBlock(channels, wider, stride=stride, option=option)
    rest = [BasicBlock(wider, wider, stride=1, option=option) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def resnet(
    *,
    depth: int = 20,
    option: Literal["A", "B"] = "B",
    in_channels: int = 3,
    classes: int = 10,
    width: int = 16,
) -> CifarResNet:
    """Returns a CIFAR ResNet of 6n+2 layers.

    With 3 input channels option B has 272,474 parameters at depth 20; with 1 it has 272,186.

    Raises:
        StructureError: if `depth` is not 6n+2.
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise StructureError(f"resnet depth {depth} is not 6n+2: take 8, 14, 20, 32, 56 or 110.")
    return CifarResNet(blocks, option=option, in_channels=in_channels, classes=classes, width=width)
