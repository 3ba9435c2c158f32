"""Removing channels by a criterion.

The one door is `Channels` (`method`): in come a subject and a criterion with how much is to stay,
out come a `PrunePlan` (`plan`) and the edits. `groups` says which groups are considered; the
criterion scores their units, all at once or again and again (`greedy`); `rounding` takes the
counts it wants to counts that the runtime likes.
"""

from tersenet.prune.channels.method import Channels
from tersenet.prune.channels.plan import PrunePlan

__all__ = ["Channels", "PrunePlan"]
