"""Training for few bits: the network learns on the grids that it will ship with.

`aware` is the method. `bits` says how many bits each layer and value has; `network` makes the graph
that is trained, with the quantisers of `weights` and `activations` where the file has its integers
(their mathematics: `formulas`) and batch norms as `norm`; `deploy` turns the trained graph into the
one that ships. In goes a float network, or one that `graph.lift` took back to floats.
"""

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
