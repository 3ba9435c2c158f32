"""Networks in fewer bits: simulated by the same graph that is deployed."""

from tersenet.quantize.linear import (
    Grid,
    asymmetric,
    dequantize,
    quantize,
    round_trip,
    symmetric,
)
from tersenet.quantize.scheme import Scheme
from tersenet.quantize.static import QuantizePlan, Static

__all__ = [
    "Grid",
    "QuantizePlan",
    "Scheme",
    "Static",
    "asymmetric",
    "dequantize",
    "quantize",
    "round_trip",
    "symmetric",
]
