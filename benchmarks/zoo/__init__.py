"""Networks of random weights to try structure on: timm, torchvision, transformers, ours, odd ones.

One per architecture, small. The lists are plain text, so that reading them loads no library.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

from torch import Tensor, nn

__all__ = ["Inputs", "Network", "build", "names"]

Inputs: TypeAlias = Callable[[int], tuple[Tensor, ...]]
"""A number of samples to inputs."""


@final
@dataclass(frozen=True)
class Network:
    """What is tried: a network in eval mode and how to make inputs for it."""

    model: nn.Module
    inputs: Inputs


def names() -> list[str]:
    """Returns every network as 'suite:name'."""
    from zoo import hard, language, ours, vision

    return [
        *(f"hard:{name}" for name in hard.NETWORKS),
        *(f"ours:{name}" for name in ours.NETWORKS),
        *(f"torchvision:{name}" for name in vision.TORCHVISION),
        *(f"timm:{name}" for name in vision.TIMM),
        *(f"transformers:{name}" for name in language.NETWORKS),
    ]


def build(name: str) -> Network:
    """Returns a network of `names()`, its weights the same each time.

    Raises:
        KeyError: if there is no such network.
    """
    import torch

    from zoo import hard, language, ours, vision
    from zoo.weights import randomise

    suite, _, own = name.partition(":")
    builders: dict[str, Callable[[str], Network]] = {
        "hard": hard.build,
        "ours": ours.build,
        "torchvision": vision.build_torchvision,
        "timm": vision.build_timm,
        "transformers": language.build,
    }
    torch.manual_seed(0)  # the libraries' own initialisation knows no other way
    network = builders[suite](own)
    randomise(network.model, network.inputs(4))
    return network
