"""Replacing: ordinary convolutions become the efficient blocks of small networks."""

from tersenet.replace.base import Replacement, ReplacePlan, Swap
from tersenet.replace.bottleneck import ChannelBottleneck, tucker2
from tersenet.replace.ghost import GhostConvolution, GhostModule
from tersenet.replace.separable import DepthwiseSeparable
from tersenet.replace.shuffle import ShuffledGroups, cp
from tersenet.replace.sites import PlainConvolution, convolutions

__all__ = [
    "ChannelBottleneck",
    "PlainConvolution",
    "DepthwiseSeparable",
    "GhostConvolution",
    "GhostModule",
    "ReplacePlan",
    "Replacement",
    "ShuffledGroups",
    "Swap",
    "convolutions",
    "cp",
    "tucker2",
]
