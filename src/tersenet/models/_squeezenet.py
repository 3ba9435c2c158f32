"""SqueezeNet 1.0, keys as in torchvision.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model
size", 2016, arXiv:1602.07360, table 1.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Fire", "SqueezeNet", "squeezenet"]


@final
class Fire(nn.Module):
    """A squeezing 1x1 convolution, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, channels: int, *, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns 2 * `expanded` channels."""
        x = functional.relu(self.squeeze(x))
        return functional.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


@final
class SqueezeNet(nn.Module):
    """A 7x7 stem, eight fire modules, a 1x1 convolution that makes the classes, pooling."""

    def __init__(self, *, in_channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, 7, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(96, squeezed=16, expanded=64),
            Fire(128, squeezed=16, expanded=64),
            Fire(128, squeezed=32, expanded=128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, squeezed=32, expanded=128),
            Fire(256, squeezed=48, expanded=192),
            Fire(384, squeezed=48, expanded=192),
            Fire(384, squeezed=64, expanded=256),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(512, squeezed=64, expanded=256),
        )
        classifier = nn.Conv2d(512, classes, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(), classifier, nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
        # Logits that are all rectified to zero would learn nothing.
        nn.init.normal_(classifier.weight, 0, 0.01)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits, none below zero."""
        return torch.flatten(self.classifier(self.features(x)), 1)


def squeezenet(*, in_channels: int = 3, classes: int = 1000) -> SqueezeNet:
    """Returns SqueezeNet 1.0: 1,248,424 parameters with the defaults."""
    return SqueezeNet(in_channels=in_channels, classes=classes)
