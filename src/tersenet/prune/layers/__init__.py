"""Dropping whole layers: residual blocks, and layers of plain chains.

The one door is `LayerPrune` (`method`): in come a subject and what is to go, out come a
`LayerPlan` and the edits. `judging` says what layers are judged by: any criterion of units, by the
mean of a layer's filters, or a criterion of layers, as `imprinting` is. `plan` holds what was
decided, and drops and replays it.
"""

from tersenet.prune.layers.imprinting import Imprint
from tersenet.prune.layers.judging import LAYER_CRITERIA, LayerCriterion, layer_criteria
from tersenet.prune.layers.method import LayerPrune
from tersenet.prune.layers.plan import LayerPlan

__all__ = [
    "LAYER_CRITERIA",
    "Imprint",
    "LayerCriterion",
    "LayerPlan",
    "LayerPrune",
    "layer_criteria",
]
