"""Networks in fewer bits: simulated by the same graph that is deployed.

Methods: `static` (integers everywhere, ranges observed), `weights` (stored alone), `half`, `auto`
(whichever is measured to pay), `aware` (trained), `mixed` (bits by layer, then one of the others).
A float network goes through `graph` to a prepared graph; `calibration` gives each activation a
range by one of `ranges`; `rounding` gives each weight its levels on a grid of `grids`; and `graph`
writes both in place. What comes out is the graph that ships, and one edit a layer. `noise` tells
what a layer costs, `overrides` what some do differently.
"""

from tersenet.quantize.auto import Auto
from tersenet.quantize.auto_plan import AutoPlan
from tersenet.quantize.aware import (
    Aware,
    AwarePlan,
    Bits,
    dorefa,
    dorefa_activation,
    lsq,
    lsq_plus,
    pack_signs,
    pact,
    sign_product,
    ternary,
    trained_ternary,
    wrpn,
    xnor,
)
from tersenet.quantize.calibration import collect_statistics
from tersenet.quantize.graph.build import QuantizePlan
from tersenet.quantize.grids.angle import angle_bound, turned
from tersenet.quantize.grids.block_fixed_point import block_fixed_point
from tersenet.quantize.grids.granularity import (
    GRANULARITIES,
    ByChannel,
    ByGroup,
    ByTensor,
    Granularity,
)
from tersenet.quantize.grids.integer import integer_linear
from tersenet.quantize.grids.linear import (
    Grid,
    asymmetric,
    dequantize,
    quantize,
    round_trip,
    symmetric,
)
from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.half import Half, HalfPlan
from tersenet.quantize.mixed import Mixed, MixedPlan
from tersenet.quantize.noise import LayerNoise, costliest, layer_noise, sqnr
from tersenet.quantize.overrides import Override
from tersenet.quantize.ranges import RANGES, WEIGHT_RANGES, Range, WeightRange
from tersenet.quantize.ranges.aciq import aciq_bound
from tersenet.quantize.ranges.statistics import Statistics, read_statistics, write_statistics
from tersenet.quantize.rounding import ROUNDINGS, Rounding
from tersenet.quantize.static import Static
from tersenet.quantize.weights import Weights

__all__ = [
    "GRANULARITIES",
    "RANGES",
    "ROUNDINGS",
    "WEIGHT_RANGES",
    "Auto",
    "AutoPlan",
    "Aware",
    "Bits",
    "Granularity",
    "Grid",
    "Half",
    "HalfPlan",
    "LayerNoise",
    "Mixed",
    "MixedPlan",
    "Override",
    "ByChannel",
    "ByGroup",
    "ByTensor",
    "AwarePlan",
    "QuantizePlan",
    "Range",
    "Rounding",
    "Scheme",
    "Static",
    "Statistics",
    "WeightRange",
    "Weights",
    "aciq_bound",
    "angle_bound",
    "asymmetric",
    "block_fixed_point",
    "collect_statistics",
    "costliest",
    "dequantize",
    "dorefa",
    "dorefa_activation",
    "integer_linear",
    "layer_noise",
    "lsq",
    "lsq_plus",
    "pack_signs",
    "pact",
    "quantize",
    "read_statistics",
    "round_trip",
    "sign_product",
    "sqnr",
    "symmetric",
    "ternary",
    "trained_ternary",
    "turned",
    "write_statistics",
    "wrpn",
    "xnor",
]
