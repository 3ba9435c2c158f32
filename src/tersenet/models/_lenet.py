"""LeNet-5.

LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 86(11), 1998, section II. As it is commonly built today: rectifiers,
max pooling, every map of C3 sees all of S2, and a linear output.
"""

from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.models.blocks import require_sides

__all__ = ["LeNet5", "lenet5"]


@final
class LeNet5(nn.Module):
    """Two 5x5 convolutions, each pooled, and three linear layers."""

    def __init__(self, *, pixels: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.pixels = pixels
        # The paper's 28x28 digits stand in frames of 32x32; padding is that frame.
        self.c1 = nn.Conv2d(in_channels, 6, 5, padding=(32 - pixels) // 2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.c5 = nn.Linear(16 * 5 * 5, 120)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits.

        Raises:
            StructureError: if the images are not of the size it is built for.
        """
        require_sides(
            x,
            self.pixels,
            self.pixels,
            network="this LeNet-5",
            instead="resize them, or build it with pixels: 28 or pixels: 32",
        )
        x = functional.max_pool2d(functional.relu(self.c1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.c3(x)), 2)
        x = functional.relu(self.c5(torch.flatten(x, 1)))
        return self.output(functional.relu(self.f6(x)))


def lenet5(*, pixels: Literal[28, 32] = 28, in_channels: int = 1, classes: int = 10) -> LeNet5:
    """Returns LeNet-5: 61,706 parameters with the defaults."""
    return LeNet5(pixels=pixels, in_channels=in_channels, classes=classes)
