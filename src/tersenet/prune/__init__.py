"""Pruning: removing what matters least, physically."""

from tersenet.prune.activation import Activation
from tersenet.prune.blocks import Block, Blocks, find_blocks
from tersenet.prune.bn_scale import BNScale
from tersenet.prune.drop_proof import prove_drops
from tersenet.prune.fisher import Fisher
from tersenet.prune.fpgm import FPGM
from tersenet.prune.hrank import HRank
from tersenet.prune.imprinting import Imprint, imprint
from tersenet.prune.l1 import L1
from tersenet.prune.l2 import L2
from tersenet.prune.lasso import LassoSelection, lasso_channels
from tersenet.prune.latency_aware import LatencyAware
from tersenet.prune.latency_plan import LatencyPlan
from tersenet.prune.layer_prune import LayerPlan, LayerPrune, layer_criteria
from tersenet.prune.magnitude import Magnitude
from tersenet.prune.maps import average_zeros, feature_map_norm, mean_rank, principal_width
from tersenet.prune.obd import OBD
from tersenet.prune.pca import PCA
from tersenet.prune.plan import PrunePlan
from tersenet.prune.random import Random
from tersenet.prune.score import ChannelScore
from tersenet.prune.second_order import damage, second_order_change, surgeon
from tersenet.prune.slimming import Slimming
from tersenet.prune.sss import SSS
from tersenet.prune.taylor import Taylor
from tersenet.prune.thinet import ThiNet, thinet

__all__ = [
    "Block",
    "Blocks",
    "Imprint",
    "LayerPlan",
    "LayerPrune",
    "find_blocks",
    "imprint",
    "layer_criteria",
    "prove_drops",
    "FPGM",
    "L1",
    "L2",
    "OBD",
    "PCA",
    "SSS",
    "Activation",
    "BNScale",
    "ChannelScore",
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
