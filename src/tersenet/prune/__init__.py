"""Pruning: removing what matters least, physically."""

from tersenet.prune.blocks import Block, Blocks, find_blocks
from tersenet.prune.channels.method import ChannelScore
from tersenet.prune.channels.plan import PrunePlan
from tersenet.prune.criteria.activation import Activation
from tersenet.prune.criteria.bn_scale import BNScale
from tersenet.prune.criteria.fisher import Fisher
from tersenet.prune.criteria.fpgm import FPGM
from tersenet.prune.criteria.hrank import HRank
from tersenet.prune.criteria.lasso import LassoSelection, lasso_channels
from tersenet.prune.criteria.maps import average_zeros, feature_map_norm, mean_rank, principal_width
from tersenet.prune.criteria.norms import L1, L2
from tersenet.prune.criteria.obd import OBD
from tersenet.prune.criteria.pca import PCA
from tersenet.prune.criteria.random import Random
from tersenet.prune.criteria.second_order import damage, second_order_change, surgeon
from tersenet.prune.criteria.taylor import Taylor
from tersenet.prune.criteria.thinet import ThiNet, thinet
from tersenet.prune.drop_proof import prove_drops
from tersenet.prune.ecc import BilinearLatency, latency_model
from tersenet.prune.latency.method import LatencyAware
from tersenet.prune.latency.plan import LatencyPlan
from tersenet.prune.layers.imprinting import Imprint, imprint
from tersenet.prune.layers.method import LayerPlan, LayerPrune, layer_criteria
from tersenet.prune.masks.magnitude import Magnitude
from tersenet.prune.staircase import Staircase, staircases
from tersenet.prune.trained.slimming import Slimming
from tersenet.prune.trained.sss import SSS

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
    "BilinearLatency",
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
    "Staircase",
    "Taylor",
    "ThiNet",
    "average_zeros",
    "damage",
    "feature_map_norm",
    "lasso_channels",
    "latency_model",
    "mean_rank",
    "principal_width",
    "second_order_change",
    "staircases",
    "surgeon",
    "thinet",
]
