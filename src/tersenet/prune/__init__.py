"""Pruning: removing what matters least, physically."""

from tersenet.prune.l1 import L1
from tersenet.prune.plan import PrunePlan
from tersenet.prune.score import ChannelScore
from tersenet.prune.staircase import Staircase, staircases

__all__ = ["L1", "ChannelScore", "PrunePlan", "Staircase", "staircases"]
