"""ShuffleNetV2: units on one half of the channels, keys as in torchvision.

Ma, Zhang, Zheng, Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design", 2018, arXiv:1807.11164, figure 3 and table 5.
"""

from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.errors import StructureError
from tersenet.models._shufflenet_v1 import DEPTHS, shuffle
from tersenet.models.blocks import conv_norm, initialise_

__all__ = ["ShuffleNetV2", "SplitUnit", "shufflenet_v2", "shufflenet_v2_small"]

STEM: Final = 24
FILTERS: Final = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
"""Filters of stages 2, 3, 4 and of the last convolution, by width."""


@final
class SplitUnit(nn.Module):
    """Half of the channels pass, half are convolved; joined and shuffled.

    Where the image is halved, both branches see all channels and both are convolved.
    """

    def __init__(self, channels: int, filters: int, *, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        half = filters // 2
        seen = channels if halve else half
        self.branch1 = nn.Sequential()
        if halve:
            self.branch1 = nn.Sequential(
                *conv_norm(channels, channels, stride=2, groups=channels, activation=None),
                *conv_norm(channels, half, 1),
            )
        self.branch2 = nn.Sequential(
            *conv_norm(seen, half, 1),
            *conv_norm(half, half, stride=2 if halve else 1, groups=half, activation=None),
            *conv_norm(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns the branches' channels in turn."""
        passed, seen = (x, x) if self.halve else x.chunk(2, 1)
        return shuffle(torch.cat([self.branch1(passed), self.branch2(seen)], 1), groups=2)


@final
class ShuffleNetV2(nn.Module):
    """A 3x3 stem, three stages of units, a 1x1 convolution, pooling, linear."""

    def __init__(self, *, width: float, small: bool, in_channels: int, classes: int) -> None:
        super().__init__()
        if width not in FILTERS:
            raise StructureError(
                f"shufflenet-v2 has no width of {width}: take {', '.join(map(str, FILTERS))}."
            )
        *filters, last = FILTERS[width]
        self.conv1 = conv_norm(in_channels, STEM, stride=1 if small else 2)
        # Small images reach 4x4 pixels by the stages' own halvings.
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        self.stage2 = _stage(STEM, filters[0], DEPTHS[0])
        self.stage3 = _stage(filters[0], filters[1], DEPTHS[1])
        self.stage4 = _stage(filters[1], filters[2], DEPTHS[2])
        self.conv5 = conv_norm(filters[2], last, 1)
        self.fc = nn.Linear(last, classes)
        initialise_(self)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        x = self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))
        x = functional.adaptive_avg_pool2d(self.conv5(x), 1)
        return self.fc(torch.flatten(x, 1))


def _stage(channels: int, filters: int, depth: int) -> nn.Sequential:
    rest = [SplitUnit(filters, filters, halve=False) for _ in range(depth - 1)]
    return nn.Sequential(SplitUnit(channels, filters, halve=True), *rest)


def shufflenet_v2(*, width: float = 1.0, in_channels: int = 3, classes: int = 1000) -> ShuffleNetV2:
    """Returns ShuffleNetV2: 2,278,604 parameters with the defaults.

    Raises:
        StructureError: if `width` is none of the paper's 0.5, 1, 1.5 and 2.
    """
    return ShuffleNetV2(width=width, small=False, in_channels=in_channels, classes=classes)


def shufflenet_v2_small(
    *, width: float = 0.5, in_channels: int = 3, classes: int = 10
) -> ShuffleNetV2:
    """Returns ShuffleNetV2 for 28x28 and 32x32 images: 352,042 parameters with the defaults.

    Raises as `shufflenet_v2`.
    """
    return ShuffleNetV2(width=width, small=True, in_channels=in_channels, classes=classes)
