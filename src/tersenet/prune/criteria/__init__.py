"""Criteria of units: one paper a file, each a class with `score(subject, groups)`.

In come the network with its data and the groups of `graph`; out comes one number for each unit.
From weights alone: `norms`, `fpgm`, `bn_scale`, by way of `weights`. By watching the network on
calibration data (`observe`): `activation` and `hrank` (statistics of `maps`), `pca`, and with
labels `fisher`, `taylor` and `obd` (`second_order`). By what the layers behind would miss
(`reconstruction`): `thinet` and `lasso`. And `random`, the control.

To add one, write a file as `norms.py` is and export its class here: that registers it.
"""

from tersenet.prune.criteria.activation import Activation
from tersenet.prune.criteria.bn_scale import BNScale
from tersenet.prune.criteria.fisher import Fisher
from tersenet.prune.criteria.fpgm import FPGM
from tersenet.prune.criteria.hrank import HRank
from tersenet.prune.criteria.lasso import LassoSelection
from tersenet.prune.criteria.norms import L1, L2
from tersenet.prune.criteria.obd import OBD
from tersenet.prune.criteria.pca import PCA
from tersenet.prune.criteria.random import Random
from tersenet.prune.criteria.taylor import Taylor
from tersenet.prune.criteria.thinet import ThiNet

__all__ = [
    "FPGM",
    "L1",
    "L2",
    "OBD",
    "PCA",
    "Activation",
    "BNScale",
    "Fisher",
    "HRank",
    "LassoSelection",
    "Random",
    "Taylor",
    "ThiNet",
]
