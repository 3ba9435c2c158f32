"""Training for few bits: formulas one a file, the graph that is trained, and what ships."""

from tersenet.quantize.aware.aware import Aware, AwarePlan
from tersenet.quantize.aware.bits import Bits

__all__ = ["Aware", "AwarePlan", "Bits"]
