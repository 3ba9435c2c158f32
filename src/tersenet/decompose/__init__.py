"""Low rank: layers replaced by chains of smaller ones."""

from tersenet.decompose.base import DecomposePlan, Decomposition
from tersenet.decompose.cp import CP, cp
from tersenet.decompose.factors import Factors
from tersenet.decompose.polyadic import Polyadic
from tersenet.decompose.rank import bayes_rank, energy_rank, rate_rank
from tersenet.decompose.rules import Bayes, Energy, LatencyShare, Manual, Rate, Sensitivity
from tersenet.decompose.svd import SVD, svd
from tersenet.decompose.tensor_train import TensorTrain, tensor_train
from tersenet.decompose.tucker import Tucker, tucker

__all__ = [
    "CP",
    "SVD",
    "Bayes",
    "DecomposePlan",
    "Decomposition",
    "Energy",
    "Factors",
    "LatencyShare",
    "Manual",
    "Polyadic",
    "Rate",
    "Sensitivity",
    "TensorTrain",
    "Tucker",
    "bayes_rank",
    "cp",
    "energy_rank",
    "rate_rank",
    "svd",
    "tensor_train",
    "tucker",
]
