"""The networks that come with tersenet, narrow where they can be."""

from collections.abc import Mapping
from typing import Any, Final

import torch

from zoo import Network

__all__ = ["NETWORKS", "build"]

NETWORKS: Final[Mapping[str, tuple[int, int, dict[str, Any]]]] = {
    "resnet": (3, 16, {"depth": 20}),
    "resnet-bottleneck": (3, 16, {}),
    "preresnet-bottleneck": (3, 16, {}),
    "resnet18": (3, 64, {"classes": 10}),
    "lenet5": (1, 28, {}),
    "alexnet": (3, 224, {"classes": 10}),
    "vgg-small": (3, 32, {"width": 16}),
    "squeezenet": (3, 64, {"classes": 10}),
    "densenet": (3, 16, {"depth": 22}),
    "mobilenet-v1": (3, 64, {"classes": 10, "width": 0.25}),
    "mobilenet-v2-small": (3, 32, {}),
    "mobilenet-v3": (3, 64, {"classes": 10}),
    "shufflenet-v1": (3, 64, {"classes": 10, "width": 0.5}),
    "shufflenet-v2-small": (3, 32, {}),
    "ghostnet-small": (3, 32, {}),
}
"""Channels and side of the images, options of the builder."""


def build(name: str) -> Network:
    """Returns one of `NETWORKS`."""
    from tersenet.models import MODELS

    channels, side, options = NETWORKS[name]
    model = MODELS[name](**options).eval()
    return Network(model, lambda samples: (torch.randn(samples, channels, side, side),))
