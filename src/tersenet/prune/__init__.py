"""Pruning: removing what matters least, physically.

A method takes a subject and gives a plan, then edits. Each has a room: `channels` removes units of
layers by a criterion (`criteria`, whose interface is `criterion`), `layers` drops whole ones,
`latency` fits both to a measured time, `masks` zeroes weights in place, `trained` trains under a
penalty before it removes. `counts` shares a wanted size out among groups.
"""

from tersenet.prune.channels import Channels, PrunePlan
from tersenet.prune.criteria import (
    FPGM,
    L1,
    L2,
    OBD,
    PCA,
    Activation,
    BNScale,
    Fisher,
    HRank,
    LassoSelection,
    Random,
    Taylor,
    ThiNet,
)
from tersenet.prune.criteria.lasso import lasso_channels
from tersenet.prune.criteria.maps import average_zeros, feature_map_norm, mean_rank, principal_width
from tersenet.prune.criteria.second_order import damage, second_order_change, surgeon
from tersenet.prune.criteria.thinet import thinet
from tersenet.prune.criterion import CRITERIA, Criterion, Needs
from tersenet.prune.latency import LatencyAware, LatencyPlan
from tersenet.prune.layers import Imprint, LayerPlan, LayerPrune, layer_criteria
from tersenet.prune.layers.imprinting import imprint
from tersenet.prune.masks import Magnitude
from tersenet.prune.trained import SSS, Slimming

__all__ = [
    "Imprint",
    "LayerPlan",
    "LayerPrune",
    "imprint",
    "layer_criteria",
    "FPGM",
    "L1",
    "L2",
    "OBD",
    "PCA",
    "SSS",
    "Activation",
    "BNScale",
    "CRITERIA",
    "Channels",
    "Criterion",
    "Needs",
    "Fisher",
    "HRank",
    "LassoSelection",
    "LatencyAware",
    "LatencyPlan",
    "Magnitude",
    "PrunePlan",
    "Random",
    "Slimming",
    "Taylor",
    "ThiNet",
    "average_zeros",
    "damage",
    "feature_map_norm",
    "lasso_channels",
    "mean_rank",
    "principal_width",
    "second_order_change",
    "surgeon",
    "thinet",
]
