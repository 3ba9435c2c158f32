"""Training for few bits: formulas one a file, the graph that is trained, and what ships."""

from tersenet.quantize.aware.aware import Aware, AwarePlan
from tersenet.quantize.aware.bits import Bits
from tersenet.quantize.aware.formulas.binary import pack_signs, sign_product, xnor
from tersenet.quantize.aware.formulas.dorefa import dorefa, dorefa_activation
from tersenet.quantize.aware.formulas.lsq import lsq, lsq_plus
from tersenet.quantize.aware.formulas.pact import pact
from tersenet.quantize.aware.formulas.ternary import ternary, trained_ternary
from tersenet.quantize.aware.formulas.wrpn import wrpn

__all__ = [
    "Aware",
    "AwarePlan",
    "Bits",
    "dorefa",
    "dorefa_activation",
    "lsq",
    "lsq_plus",
    "pack_signs",
    "pact",
    "sign_product",
    "ternary",
    "trained_ternary",
    "wrpn",
    "xnor",
]
