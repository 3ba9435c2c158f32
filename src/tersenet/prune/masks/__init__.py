"""Zeroing weights in place: nothing is smaller until a file says so.

The one door is `Magnitude` (`magnitude`): in come a subject and how sparse it is to be, out come a
`MaskPlan` (`plan`) and edits. `patterns` says what goes together, `units` cuts weights so, scores
and zeroes them; `allocation` shares sparsity out among layers, by curves that `sensitivity`
measures. `packed` stores a masked weight as what it keeps.
"""

from tersenet.prune.masks.magnitude import Magnitude
from tersenet.prune.masks.plan import MaskPlan

__all__ = ["Magnitude", "MaskPlan"]
