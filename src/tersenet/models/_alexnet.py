"""AlexNet in its one-column form, keys as in torchvision.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014,
arXiv:1404.5997, after Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep
Convolutional Neural Networks", 2012.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tersenet.models.blocks import require_sides

__all__ = ["AlexNet", "alexnet"]


@final
class AlexNet(nn.Module):
    """Five convolutions and three linear layers, for images of 63 pixels or more."""

    def __init__(self, *, in_channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, classes),
        )

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits.

        Raises:
            StructureError: if a side is shorter than 63 pixels.
        """
        require_sides(x, 63, network="AlexNet", instead="enlarge them, or take another network")
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def alexnet(*, in_channels: int = 3, classes: int = 1000) -> AlexNet:
    """Returns AlexNet: 61,100,840 parameters with the defaults."""
    return AlexNet(in_channels=in_channels, classes=classes)
