"""Pruning to a share of the original's measured time.

The one door is `LatencyAware` (`method`): in come a subject, a criterion and a share of time; out
come a `LatencyPlan` (`plan`) and the edits. `gains` says what each count of units and each block
is worth, by losses or scores; `width_choice` picks the counts worth most within a budget.
"""

from tersenet.prune.latency.method import LatencyAware
from tersenet.prune.latency.plan import LatencyPlan

__all__ = ["LatencyAware", "LatencyPlan"]
