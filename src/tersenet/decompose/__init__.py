"""Low rank: layers replaced by chains of smaller ones.

In flow a network and the options of a step: a form (`forms`) and a rank rule (`rules`). `sites`
finds the layers that the form can take, the rule says at which ranks, and `base` puts the chains in
their places, proves each, and has `refit` fit them to data. Out come `Factors` in the network.
"""

from tersenet.decompose.base import DecomposePlan, Decomposition
from tersenet.decompose.factors import Factors
from tersenet.decompose.forms.cp import CP, cp
from tersenet.decompose.forms.polyadic import Polyadic
from tersenet.decompose.forms.svd import SVD, svd
from tersenet.decompose.forms.tensor_train import TensorTrain, tensor_train
from tersenet.decompose.forms.tucker import Tucker, tucker
from tersenet.decompose.rules import (
    RANKS,
    Bayes,
    EnergyShare,
    LatencyShare,
    LayerRule,
    Manual,
    RankRule,
    Rate,
    Sensitivity,
    bayes_rank,
    energy_rank,
    rank_rule,
    rate_rank,
)

__all__ = [
    "CP",
    "RANKS",
    "SVD",
    "Bayes",
    "DecomposePlan",
    "Decomposition",
    "EnergyShare",
    "Factors",
    "LatencyShare",
    "LayerRule",
    "Manual",
    "Polyadic",
    "RankRule",
    "Rate",
    "Sensitivity",
    "TensorTrain",
    "Tucker",
    "bayes_rank",
    "cp",
    "energy_rank",
    "rank_rule",
    "rate_rank",
    "svd",
    "tensor_train",
    "tucker",
]
