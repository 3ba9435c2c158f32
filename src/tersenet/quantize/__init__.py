"""Networks in fewer bits: simulated by the same graph that is deployed."""

from tersenet.quantize.angle import angle_bound, turned
from tersenet.quantize.auto import Auto, AutoPlan
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
from tersenet.quantize.block_fixed_point import block_fixed_point
from tersenet.quantize.build import QuantizePlan
from tersenet.quantize.clipping import aciq_bound, aciq_clip, average_clip, deviation_clip
from tersenet.quantize.half import Half, HalfPlan
from tersenet.quantize.integer import integer_linear
from tersenet.quantize.linear import (
    Grid,
    asymmetric,
    dequantize,
    quantize,
    round_trip,
    symmetric,
)
from tersenet.quantize.mixed import Mixed, MixedPlan
from tersenet.quantize.noise import LayerNoise, costliest, layer_noise, sqnr
from tersenet.quantize.overrides import Override
from tersenet.quantize.scheme import Scheme
from tersenet.quantize.static import Static
from tersenet.quantize.statistics import (
    Statistics,
    collect_statistics,
    read_statistics,
    write_statistics,
)
from tersenet.quantize.weights import Weights

__all__ = [
    "Auto",
    "AutoPlan",
    "Aware",
    "AwarePlan",
    "Bits",
    "Grid",
    "Half",
    "HalfPlan",
    "LayerNoise",
    "Override",
    "Mixed",
    "MixedPlan",
    "QuantizePlan",
    "Scheme",
    "Static",
    "Statistics",
    "Weights",
    "aciq_bound",
    "aciq_clip",
    "angle_bound",
    "asymmetric",
    "average_clip",
    "block_fixed_point",
    "collect_statistics",
    "costliest",
    "dequantize",
    "deviation_clip",
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
