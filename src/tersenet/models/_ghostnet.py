"""GhostNet: some feature maps are convolved, the others are cheap images of them.

Han et al., "GhostNet: More Features from Cheap Operations", 2019, arXiv:1911.11907, section 3
and table 1.
"""

import math
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.errors import StructureError
from tersenet.models.blocks import (
    SqueezeExcitation,
    conv_norm,
    initialise_,
    round_channels,
    scale_channels,
)

__all__ = [
    "Ghost",
    "GhostBottleneck",
    "GhostNet",
    "ghost_macs",
    "ghost_speedup",
    "ghostnet",
    "ghostnet_small",
]

BLOCKS: Final = (
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
)
"""Kernel, inner channels, filters, gate and stride of each bottleneck."""
LAST: Final = (960, 1280)
"""Channels of the last convolution, and of the layer before the classes."""


def ghost_macs(
    channels: int, filters: int, *, kernel: int, split: int, cheap: int, side: int
) -> int:
    """Returns (m · c · k² + (s-1) · m · d²) · h · w with m = n/s intrinsic maps (section 3.1)."""
    m, s, d = filters // split, split, cheap
    return (m * channels * kernel**2 + (s - 1) * m * d**2) * side**2


def ghost_speedup(channels: int, *, split: int) -> float:
    """Returns s · c / (s + c - 1), the theoretical speed-up where d = k (equation 4)."""
    return split * channels / (split + channels - 1)


@final
class Ghost(nn.Module):
    """A convolution makes 1/`split` of the maps; a convolution of each map makes the others."""

    def __init__(
        self,
        channels: int,
        filters: int,
        *,
        kernel: int = 3,
        split: int = 2,
        cheap: int = 3,
        rectify: bool = True,
    ) -> None:
        super().__init__()
        if split < 2:
            raise StructureError(f"a ghost module of split {split} has no ghosts: take 2 or more.")
        intrinsic = math.ceil(filters / split)
        ghosts = intrinsic * (split - 1)
        activation = nn.ReLU if rectify else None
        self.filters = filters
        self.whole = intrinsic + ghosts == filters
        self.primary = conv_norm(channels, intrinsic, kernel, activation=activation)
        self.cheap = conv_norm(intrinsic, ghosts, cheap, groups=intrinsic, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the intrinsic maps, then their ghosts."""
        intrinsic = self.primary(x)
        maps = torch.cat([intrinsic, self.cheap(intrinsic)], 1)
        return maps if self.whole else maps[:, : self.filters]


@final
class GhostBottleneck(nn.Module):
    """A ghost module up, a halving convolution and a gate where asked, a ghost module down."""

    def __init__(
        self, channels: int, filters: int, *, inner: int, kernel: int, gate: bool, stride: int
    ) -> None:
        super().__init__()
        self.up = Ghost(channels, inner, kernel=1)
        self.halve = nn.Sequential()
        if stride != 1:
            self.halve = conv_norm(
                inner, inner, kernel, stride=stride, groups=inner, activation=None
            )
        self.gate = (
            SqueezeExcitation(inner, round_channels(inner / 4, 4)) if gate else nn.Identity()
        )
        self.down = Ghost(inner, filters, kernel=1, rectify=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != filters:
            self.shortcut = nn.Sequential(
                conv_norm(
                    channels, channels, kernel, stride=stride, groups=channels, activation=None
                ),
                conv_norm(channels, filters, 1, activation=None),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Returns F(x) + shortcut(x)."""
        return self.down(self.gate(self.halve(self.up(x)))) + self.shortcut(x)


@final
class GhostNet(nn.Module):
    """A 3x3 stem, 16 ghost bottlenecks, a 1x1 convolution, pooling, two linear layers."""

    def __init__(self, *, width: float, small: bool, in_channels: int, classes: int) -> None:
        super().__init__()
        channels = scale_channels(16, width, 4)
        self.stem = conv_norm(in_channels, channels, stride=1 if small else 2)
        blocks: list[nn.Module] = []
        for kernel, inner, filters, gate, stride in BLOCKS:
            wider = scale_channels(filters, width, 4)
            blocks.append(
                GhostBottleneck(
                    channels,
                    wider,
                    inner=scale_channels(inner, width, 4),
                    kernel=kernel,
                    gate=gate,
                    # Small images are at 4x4 pixels already where the filters reach 160.
                    stride=1 if small and filters == 160 else stride,
                )
            )
            channels = wider
        self.blocks = nn.Sequential(*blocks)
        last = scale_channels(LAST[0], width, 4)
        self.conv = conv_norm(channels, last, 1)
        self.head = nn.Linear(last, LAST[1])
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(LAST[1], classes)
        initialise_(self)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits."""
        x = functional.adaptive_avg_pool2d(self.conv(self.blocks(self.stem(x))), 1)
        x = functional.relu(self.head(torch.flatten(x, 1)))
        return self.classifier(self.dropout(x))


def ghostnet(*, width: float = 1.0, in_channels: int = 3, classes: int = 1000) -> GhostNet:
    """Returns GhostNet: 5,182,508 parameters with the defaults.

    Raises:
        StructureError: if `width` is not positive.
    """
    return GhostNet(width=width, small=False, in_channels=in_channels, classes=classes)


def ghostnet_small(*, width: float = 0.5, in_channels: int = 3, classes: int = 10) -> GhostNet:
    """Returns GhostNet for 28x28 and 32x32 images: 1,310,030 parameters with the defaults.

    Raises as `ghostnet`.
    """
    return GhostNet(width=width, small=True, in_channels=in_channels, classes=classes)
