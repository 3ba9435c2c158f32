"""Replacing: ordinary convolutions become the efficient blocks of small networks.

In flow a network and the options of a step. `sites` finds the convolutions that can be replaced;
a block (`bottleneck`, `ghost`, `separable`, `shuffle`: each a method) says its sizes, its cost and
how it is fitted to a kernel; `base` decides whether it pays, by count and as measured (`timing`),
and puts the fitted blocks in.
"""

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
