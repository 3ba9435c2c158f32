"""Networks in fewer bits: simulated by the same graph that is deployed."""

from tersenet.quantize.linear import Grid, asymmetric, dequantize, quantize, symmetric
from tersenet.quantize.static import QuantizePlan, Static

__all__ = [
    "Grid",
    "QuantizePlan",
    "Static",
    "asymmetric",
    "dequantize",
    "quantize",
    "symmetric",
]
