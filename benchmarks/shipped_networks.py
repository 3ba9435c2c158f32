"""The networks that this repository ships, pruned and rounded, for benchmarks."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pruned_layers import image_batches, rounded
from torch import nn
from torch.nn import functional

from tersenet.core.files import load_weights
from tersenet.models import mobilenet_v2_small, resnet, vgg_small

__all__ = ["SHIPPED", "accuracy", "layers", "load", "pruned", "rounded_channels"]

WEIGHTS: Final = Path(__file__).parent.parent / "weights"
SHIPPED: Final[dict[str, tuple[Callable[[], nn.Module], str]]] = {
    "VGG-small": (lambda: vgg_small(in_channels=1), "vgg-small"),
    "ResNet-20": (lambda: resnet(in_channels=1), "resnet20"),
    "MobileNetV2-small": (
        lambda: mobilenet_v2_small(in_channels=1, width=0.25),
        "mobilenet-v2-small",
    ),
}


def load(name: str) -> nn.Module:
    """One of them, in eval mode."""
    build, file = SHIPPED[name]
    model = build()
    load_weights(model, WEIGHTS / f"{file}-fashion-mnist.safetensors")
    return model.eval()


def layers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of its linear layers and convolutions."""
    return {
        name: one.weight
        for name, one in model.named_modules()
        if isinstance(one, nn.Conv2d | nn.Linear)
    }


def pruned(model: nn.Module, zeros: float, *, bits: int, steps: int) -> nn.Module:
    """A copy with the smallest weights of each layer cut, trained on, the rest rounded."""
    own = copy.deepcopy(model).train()
    masks = {}
    with torch.no_grad():
        for name, weight in layers(own).items():
            if weight[0].numel() > 64:  # the first layer and depthwise ones stay
                cut = max(1, round(weight.numel() * zeros))
                masks[name] = weight.abs() > weight.abs().flatten().kthvalue(cut).values
    optimiser = torch.optim.SGD(own.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for inputs, targets in image_batches("train", steps=steps):
        for name, mask in masks.items():
            layers(own)[name].data.mul_(mask)
        optimiser.zero_grad()
        functional.cross_entropy(own(inputs), targets).backward()
        optimiser.step()
    with torch.no_grad():
        for name, weight in layers(own).items():
            kept = weight * masks.get(name, True)
            weight.copy_(torch.from_numpy(rounded(kept.numpy(), bits=bits)))
    return own.eval()


def rounded_channels(model: nn.Module) -> nn.Module:
    """A copy whose channels have 8 bits and a step each."""
    own = copy.deepcopy(model)
    with torch.no_grad():
        for weight in layers(own).values():
            steps = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / 127
            shaped = steps.view(-1, *(1,) * (weight.ndim - 1))
            weight.copy_(torch.round(weight / shaped) * shaped)
    return own


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Top-1 on 2,000 test images."""
    hits = [
        (model(inputs).argmax(1) == targets).numpy()
        for inputs, targets in image_batches("test", steps=20, batch=100)
    ]
    return float(np.concatenate(hits).mean())
