"""The types that every room of the house shares, under one name.

A *subject* (a network with example inputs) flows through methods: each *plans*, is *applied*
to a copy and returns *edits*; after each, a *cost* and a *score* are measured.
"""

from tersenet.core.edit import Edit, EditKind
from tersenet.core.figures import (
    Cost,
    Device,
    Energy,
    Latency,
    LayerCost,
    Score,
    Speedup,
    Unmeasured,
)
from tersenet.core.types.method import Method, Plan, Proof, Skip
from tersenet.core.types.outcome import Bound, Budget, Outcome, Status, StepRecord
from tersenet.core.types.subject import (
    Batch,
    Deployment,
    Loss,
    Precision,
    Predict,
    Quality,
    Removal,
    Subject,
    Tick,
    TrainingBatches,
    Workbench,
    no_tick,
)

__all__ = [
    "Batch",
    "Bound",
    "Budget",
    "Cost",
    "Deployment",
    "Device",
    "Edit",
    "EditKind",
    "Energy",
    "Latency",
    "LayerCost",
    "Loss",
    "Method",
    "Outcome",
    "Plan",
    "Precision",
    "Predict",
    "Proof",
    "Quality",
    "Removal",
    "Score",
    "Skip",
    "Speedup",
    "Status",
    "StepRecord",
    "Subject",
    "Tick",
    "TrainingBatches",
    "Unmeasured",
    "Workbench",
    "no_tick",
]
