"""Densely connected networks for 32x32 images, without bottlenecks or compression.

Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", 2016,
arXiv:1608.06993, section 3 and table 2.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.errors import StructureError
from tersenet.models.blocks import initialise_

__all__ = ["DenseNet", "densenet"]


@final
class DenseUnit(nn.Module):
    """Batch norm, rectifier, 3x3 convolution; its output is joined to its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `growth` more channels than it was given."""
        return torch.cat([x, self.conv(functional.relu(self.norm(x)))], 1)


@final
class Transition(nn.Module):
    """Batch norm, rectifier, 1x1 convolution, and pooling that halves the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns as many channels."""
        return functional.avg_pool2d(self.conv(functional.relu(self.norm(x))), 2)


@final
class DenseNet(nn.Module):
    """A 3x3 stem of 16 filters, three dense blocks with transitions between, pooling, linear."""

    def __init__(self, layers: int, *, growth: int, in_channels: int, classes: int) -> None:
        super().__init__()
        channels = 16
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        for block in range(3):
            if block:
                stages.append(Transition(channels))
            stages.append(
                nn.Sequential(*(DenseUnit(channels + i * growth, growth) for i in range(layers)))
            )
            channels += layers * growth
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, classes)
        initialise_(self)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        x = functional.relu(self.norm(self.stages(self.conv(x))))
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def densenet(
    *, depth: int = 40, growth: int = 12, in_channels: int = 3, classes: int = 10
) -> DenseNet:
    """Returns a DenseNet of 3n+4 layers: 1,019,722 parameters with the defaults.

    Raises:
        StructureError: if `depth` is not 3n+4, or `growth` is not positive.
    """
    layers, rest = divmod(depth - 4, 3)
    if rest or layers < 1:
        raise StructureError(f"densenet depth {depth} is not 3n+4: take 7, 22, 40 or 100.")
    if growth < 1:
        raise StructureError(f"layers that grow by {growth} channels add none: take 1 or more.")
    return DenseNet(layers, growth=growth, in_channels=in_channels, classes=classes)
