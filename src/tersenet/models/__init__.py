"""Reference networks, each a short file citing its paper."""

from collections.abc import Callable
from typing import Final

from torch import nn

from tersenet.models.resnet_cifar import resnet

__all__ = ["MODELS", "resnet"]

MODELS: Final[dict[str, Callable[..., nn.Module]]] = {"resnet": resnet}
"""By the key of a recipe's `model` section."""
