"""What every method must keep to: one table, and all tests go through it.

What it is stands in `tersenet.testing`. A new method is one more row:
`test_the_table_is_complete` fails until it is there.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tersenet.core.registry import FAMILIES, methods
from tersenet.core.types import Method
from tersenet.decompose import CP, SVD, EnergyShare, TensorTrain, Tucker
from tersenet.distill import Response
from tersenet.encode import Feedback, RateAware, RateDistortion
from tersenet.prune import (
    FPGM,
    L1,
    L2,
    OBD,
    PCA,
    SSS,
    Activation,
    BNScale,
    Channels,
    Fisher,
    HRank,
    LassoSelection,
    LatencyAware,
    LayerPrune,
    Magnitude,
    Random,
    Slimming,
    Taylor,
    ThiNet,
)
from tersenet.quantize import Auto, Aware, ByGroup, Half, Mixed, Static, Weights
from tersenet.quantize.rounding import AdaRound, BlockRounding
from tersenet.repair import BatchNorm, LeastSquares, Shift
from tersenet.replace import ChannelBottleneck, DepthwiseSeparable, GhostModule, ShuffledGroups
from tersenet.testing import MethodContract

TABLE: Mapping[str, Method[Any]] = {
    "prune l1, global": Channels(criterion=L1(), keep=0.5, multiple_of=None),
    "prune l1, by layer": Channels(criterion=L1(), keep=0.6, scope="layer", multiple_of=2),
    "prune l2": Channels(criterion=L2(), multiple_of=None),
    "prune bn-scale": Channels(criterion=BNScale(), multiple_of=None),
    "prune fisher": Channels(criterion=Fisher(), multiple_of=None),
    "prune fisher, greedy": Channels(
        criterion=Fisher(mac_weight=0.01, batches=2), keep=0.9, at_a_time=2, multiple_of=None
    ),
    "prune taylor": Channels(criterion=Taylor(), multiple_of=None),
    "prune obd": Channels(criterion=OBD(probes=2), multiple_of=None),
    "prune activation": Channels(criterion=Activation(), multiple_of=None),
    "prune hrank": Channels(criterion=HRank(), multiple_of=None),
    "prune fpgm": Channels(criterion=FPGM(), multiple_of=None),
    "prune pca": Channels(criterion=PCA(variance=0.7), multiple_of=None),
    "prune thinet": Channels(criterion=ThiNet(), multiple_of=None),
    "prune lasso": Channels(criterion=LassoSelection(), multiple_of=None),
    "prune magnitude, single weights": Magnitude(sparsity=0.8),
    "prune magnitude, kernels": Magnitude(sparsity=0.5, pattern="kernel", scope="erk"),
    "prune magnitude, 2:4": Magnitude(pattern="2:4"),
    "prune latency-aware": LatencyAware(
        latency=0.7, criterion=L1(), multiple_of=3, worth="score", attempts=1
    ),
    "prune slimming": Slimming(epochs=1, strength=0.1, multiple_of=None),
    "prune sss": SSS(epochs=1, strength=20, learning_rate=0.02),
    "prune random": Channels(criterion=Random(seed=1), multiple_of=None),
    "prune layers": LayerPrune(criterion="l1", remove=1),
    "prune layers, imprint": LayerPrune(criterion="imprint", remove=1),
    "repair batch-norm": BatchNorm(),
    "repair least-squares": LeastSquares(),
    "repair shift": Shift(),
    "replace depthwise-separable": DepthwiseSeparable(least_channels=2, least_speedup=None),
    "replace bottleneck": ChannelBottleneck(least_channels=2, least_speedup=None),
    "replace ghost": GhostModule(least_channels=2, least_speedup=None, largest=3),
    "replace shuffle": ShuffledGroups(least_channels=2, least_speedup=None),
    "decompose svd": SVD(weighting="activation"),
    "decompose svd, by space": SVD(split="spatial"),
    "decompose tucker": Tucker(ranks=EnergyShare(share=0.6)),
    "decompose cp": CP(layers=4, iterations=10),
    "decompose tensor-train": TensorTrain(cores=2, least=4),
    "distill response": Response(epochs=1, learning_rate=0.01),
    "quantize static": Static(reduce_range=False),
    "quantize static, mse": Static(range="mse", per="tensor", reduce_range=True),
    "quantize static, 4 bits": Static(
        bits=4, weight_range="mse", rounding="gptq", bias_correction="empirical", equalise=True
    ),
    "quantize static, groups by block": Static(
        bits=3, per=ByGroup(size=8), activation_mode="full", rounding=BlockRounding(steps=5)
    ),
    "quantize half": Half(dtype="bf16"),
    "quantize weights": Weights(bits=4, skip=("conv1",)),
    "quantize weights, learned": Weights(bits=3, per=ByGroup(size=6), rounding=AdaRound(steps=5)),
    "quantize auto": Auto(agreement=0.0, speedup=0.0, iterations=1, seconds=0.0, by_layer=False),
    "quantize aware": Aware(weight_bits=4, activation_bits=4, epochs=1),
    "quantize mixed": Mixed(average_bits=4, measure="hessian", probes=1),
    "encode rd": RateDistortion(lam=1e-4, samples=8),
    "encode rate-aware": RateAware(lam=1e-6, epochs=0.5, learning_rate=0.01),
    "encode feedback": Feedback(lam=1e-4, samples=16, dependent=False),
}


@pytest.fixture(params=TABLE, scope="class")
def method(request: pytest.FixtureRequest) -> Iterator[None]:
    """Gives the contract one method after the other."""
    request.cls.method = TABLE[request.param]
    yield
    del request.cls.method


@pytest.mark.usefixtures("method")
class TestMethods(MethodContract):
    """Every method keeps to it."""


def test_the_table_is_complete() -> None:
    registered = {cls for family in FAMILIES for cls in methods(family).values()}
    assert registered == {type(method) for method in TABLE.values()}
