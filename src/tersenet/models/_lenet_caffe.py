"""LeNet-5 in the width that compression papers use.

Jia et al., "Caffe: Convolutional Architecture for Fast Feature Embedding", 2014, arXiv:1408.5093,
shipped this variant of LeCun's network (1998) as its example; Han et al., "Deep Compression",
2015, arXiv:1510.00149, and those after them, DeepCABAC among them, call it LeNet-5: 1.72 MB in
float32. One rectifier in all, after the first linear layer, as there.
"""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.models.blocks import require_sides

__all__ = ["LeNet5Caffe", "lenet5_caffe"]


@final
class LeNet5Caffe(nn.Module):
    """Two 5x5 convolutions of 20 and 50 filters, each pooled, and two linear layers."""

    def __init__(self, *, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.ip1 = nn.Linear(50 * 4 * 4, 500)
        self.ip2 = nn.Linear(500, classes)

    def forward(
        self, x: Float[Tensor, "sample channel height width"]
    ) -> Float[Tensor, "sample label"]:
        """Returns the logits.

        Raises:
            StructureError: if the images are not 28x28.
        """
        require_sides(x, 28, 28, network="LeNet-5 of Caffe", instead="resize them to 28x28")
        x = functional.max_pool2d(self.conv1(x), 2)
        x = functional.max_pool2d(self.conv2(x), 2)
        return self.ip2(functional.relu(self.ip1(torch.flatten(x, 1))))


def lenet5_caffe(*, in_channels: int = 1, classes: int = 10) -> LeNet5Caffe:
    """Returns LeNet-5 as Caffe ships it: 431,080 parameters with the defaults."""
    return LeNet5Caffe(in_channels=in_channels, classes=classes)
