"""Networks in fewer bits: simulated by the same graph that is deployed."""

from tersenet.quantize.build import QuantizePlan
from tersenet.quantize.clipping import aciq_bound, aciq_clip, average_clip, deviation_clip
from tersenet.quantize.linear import (
    Grid,
    asymmetric,
    dequantize,
    quantize,
    round_trip,
    symmetric,
)
from tersenet.quantize.overrides import Override
from tersenet.quantize.scheme import Scheme
from tersenet.quantize.static import Static
from tersenet.quantize.statistics import (
    Statistics,
    collect_statistics,
    read_statistics,
    write_statistics,
)

__all__ = [
    "Grid",
    "Override",
    "QuantizePlan",
    "Scheme",
    "Static",
    "Statistics",
    "aciq_bound",
    "aciq_clip",
    "asymmetric",
    "average_clip",
    "collect_statistics",
    "dequantize",
    "deviation_clip",
    "quantize",
    "read_statistics",
    "round_trip",
    "symmetric",
    "write_statistics",
]
