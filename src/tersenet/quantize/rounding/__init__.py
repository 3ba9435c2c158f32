"""Which level each weight takes: roundings one a file, and the walk that they are called on.

`decide.quantised` is the door: weights on their grids and ranges of activations in, the graph with
integers out. `lockstep` runs the network and its quantised twin side by side; where a stretch of
layers begins (`stretches`: a layer or a block) the `Rounding` is given a `Piece`, all that both
networks have computed there, and returns values on the grid. A new one is a file here, a line
below and a row of `tests/quantize/test_decide.py`.
"""

from tersenet.quantize.rounding.adaround import AdaRound
from tersenet.quantize.rounding.base import ROUNDINGS, AnyRounding, Piece, Rounded, Rounding
from tersenet.quantize.rounding.block import BlockRounding
from tersenet.quantize.rounding.gptq import GPTQ
from tersenet.quantize.rounding.nearest import Nearest

__all__ = [
    "GPTQ",
    "ROUNDINGS",
    "AdaRound",
    "AnyRounding",
    "BlockRounding",
    "Nearest",
    "Piece",
    "Rounded",
    "Rounding",
]
