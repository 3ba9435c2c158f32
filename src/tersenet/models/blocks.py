"""What the efficient networks share: a normalised convolution, rounding of widths, weights."""

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from tersenet.errors import StructureError

__all__ = [
    "SqueezeExcitation",
    "conv_norm",
    "initialise_",
    "require_sides",
    "round_channels",
    "scale_channels",
]


def conv_norm(
    channels: int,
    filters: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.Sequential:
    """Returns a convolution that keeps the image's size at stride 1, batch norm, activation."""
    conv = nn.Conv2d(
        channels, filters, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    norm = nn.BatchNorm2d(filters, eps=eps, momentum=momentum)
    return nn.Sequential(conv, norm, *([] if activation is None else [activation()]))


class SqueezeExcitation(nn.Module):
    """Weighs channels by a gate computed from their means.

    Hu et al., "Squeeze-and-Excitation Networks", 2017, arXiv:1709.01507, with the hard sigmoid
    of arXiv:1905.02244.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns x times its gate."""
        gate = self.fc2(functional.relu(self.fc1(functional.adaptive_avg_pool2d(x, 1))))
        return x * functional.hardsigmoid(gate)


def round_channels(channels: float, divisor: int = 8) -> int:
    """Returns the nearest multiple of `divisor`, one more where that would lose over 10 %."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def scale_channels(channels: int, width: float, divisor: int = 8) -> int:
    """Returns `channels` times the width multiplier, rounded.

    Raises:
        StructureError: if `width` is not positive and finite.
    """
    if not 0 < width < math.inf:
        raise StructureError(f"a width multiplier of {width} leaves no channels: take 0.25 to 2.")
    return round_channels(channels * width, divisor)


def require_sides(
    x: Tensor, least: int, most: float = math.inf, *, network: str, instead: str
) -> None:
    """Refuses images that a network's poolings or linear layers cannot take.

    Sides are numbers when a network is exported, so this leaves nothing in its graph.

    Args:
        x: images (…, height, width).
        least: pixels of a side.
        most: pixels of a side.
        network: its name, for the error.
        instead: what to do, for the error.

    Raises:
        StructureError: if a side is too short or too long.
    """
    height, width = x.shape[-2:]
    if least <= min(height, width) and max(height, width) <= most:
        return
    wanted = f"{least}×{least} pixels" + ("" if most == least else " or more")
    raise StructureError(f"{network} reads images of {wanted}, not {height}×{width}: {instead}.")


def initialise_(model: nn.Module) -> None:
    """Draws convolutions for constant variance of the gradients, linear layers from N(0, 0.01).

    He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # PyTorch's own fan ignores groups: it would start depthwise convolutions near zero.
            fan_out = module.weight.shape[0] // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
