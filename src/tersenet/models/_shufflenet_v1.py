"""ShuffleNet: grouped 1x1 convolutions with a channel shuffle between.

Zhang, Zhou, Lin, Sun, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for
Mobile Devices", 2017, arXiv:1707.01083, section 3 and table 1.
"""

from functools import partial
from typing import Final, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.errors import StructureError
from tersenet.models.blocks import conv_norm, initialise_, scale_channels

__all__ = [
    "ShuffleNetV1",
    "ShuffleUnit",
    "bottleneck_macs",
    "shuffle",
    "shuffle_macs",
    "shufflenet_v1",
]

FILTERS: Final = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Filters of stage 2, by groups; stages 3 and 4 have two and four times as many."""
DEPTHS: Final = (4, 8, 4)
"""Units of stages 2, 3 and 4."""


def shuffle(
    x: Float[Tensor, "sample channel height width"], *, groups: int
) -> Float[Tensor, "sample channel height width"]:
    """Deals the channels of each group out over all groups.

    Channels are written by rows into a table of `groups` rows and read by columns; shuffling by
    channels / `groups` undoes it.
    """
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def shuffle_macs(channels: int, *, bottleneck: int, groups: int, side: int) -> int:
    """Returns hw(2cm/g + 9m), a unit's cost at stride 1 (section 3.2)."""
    return side**2 * (2 * channels * bottleneck // groups + 9 * bottleneck)


def bottleneck_macs(channels: int, *, bottleneck: int, side: int) -> int:
    """Returns hw(2cm + 9m²), the cost of a residual bottleneck of the same widths."""
    return side**2 * (2 * channels * bottleneck + 9 * bottleneck**2)


@final
class ShuffleUnit(nn.Module):
    """Grouped 1x1 down, shuffle, 3x3 of each channel, grouped 1x1 up; added to the input.

    With `filters` the image is halved: what F(x) lacks to that many channels is the input,
    average-pooled and joined instead of added.
    """

    def __init__(
        self,
        channels: int,
        *,
        bottleneck: int,
        groups: int,
        filters: int | None = None,
        grouped_first: bool = True,
    ) -> None:
        super().__init__()
        self.halves = filters is not None
        self.groups = groups
        made = channels if filters is None else filters - channels
        first = groups if grouped_first else 1
        self.reduce = conv_norm(channels, bottleneck, 1, groups=first)
        self.depthwise = conv_norm(
            bottleneck,
            bottleneck,
            stride=2 if self.halves else 1,
            groups=bottleneck,
            activation=None,
        )
        self.expand = conv_norm(bottleneck, made, 1, groups=groups, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """Returns relu(x + F(x)), or relu([pooled x, F(x)]) where the image is halved."""
        y = self.expand(self.depthwise(shuffle(self.reduce(x), groups=self.groups)))
        if self.halves:
            return functional.relu(torch.cat([functional.avg_pool2d(x, 3, 2, 1), y], 1))
        return functional.relu(x + y)


@final
class ShuffleNetV1(nn.Module):
    """A 3x3 stem with pooling, three stages of units, pooling, linear."""

    def __init__(self, groups: int, *, width: float, in_channels: int, classes: int) -> None:
        super().__init__()
        channels = scale_channels(24, width, groups)
        self.stem = conv_norm(in_channels, channels, stride=2)
        units: list[nn.Module] = []
        for stage, depth in enumerate(DEPTHS):
            # Bottlenecks are a quarter as wide; both split evenly into groups.
            filters = scale_channels(FILTERS[groups] * 2**stage, width, 4 * groups)
            unit = partial(ShuffleUnit, bottleneck=filters // 4, groups=groups)
            # The stem's few channels are not split (section 3.3).
            units.append(unit(channels, filters=filters, grouped_first=stage > 0))
            units += [unit(filters) for _ in range(depth - 1)]
            channels = filters
        self.units = nn.Sequential(*units)
        self.linear = nn.Linear(channels, classes)
        initialise_(self)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        x = self.units(functional.max_pool2d(self.stem(x), 3, 2, 1))
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def shufflenet_v1(
    *,
    groups: Literal[1, 2, 3, 4, 8] = 3,
    width: float = 1.0,
    in_channels: int = 3,
    classes: int = 1000,
) -> ShuffleNetV1:
    """Returns ShuffleNet: 1,865,728 parameters with the defaults.

    Raises:
        StructureError: if the paper has no network of so many groups, or `width` is not positive.
    """
    if groups not in FILTERS:
        raise StructureError(f"shufflenet has no form of {groups} groups: take 1, 2, 3, 4 or 8.")
    return ShuffleNetV1(groups, width=width, in_channels=in_channels, classes=classes)
