"""Which reals a grid spans: ranges of activations and of weights, one a file.

Of an activation: a `Range` gives an `Observer` (`observer`: ends alone; `histogram`: counts of
fixed size), which is shown each batch; from what it has seen, or from a file of `statistics`, the
range tells the ends of the grid for given bits. Of a weight, which is all there: a `WeightRange`
returns its grid. A new one is a file here, a line below and a row of `tests/quantize/test_ranges`.
"""

from tersenet.quantize.ranges.aciq import Aciq
from tersenet.quantize.ranges.average import AverageRange
from tersenet.quantize.ranges.base import RANGES, AnyRange, Range
from tersenet.quantize.ranges.deviations import Deviations
from tersenet.quantize.ranges.kl import LeastDivergence
from tersenet.quantize.ranges.min_max import MinMax
from tersenet.quantize.ranges.moving_average import MovingAverage
from tersenet.quantize.ranges.mse import LeastError
from tersenet.quantize.ranges.percentile import Percentile
from tersenet.quantize.ranges.weight_mse import LeastWeightError
from tersenet.quantize.ranges.weight_range import (
    WEIGHT_RANGES,
    AnyWeightRange,
    WeightRange,
    WholeWeight,
)

__all__ = [
    "RANGES",
    "WEIGHT_RANGES",
    "Aciq",
    "AnyRange",
    "AnyWeightRange",
    "AverageRange",
    "Deviations",
    "LeastDivergence",
    "LeastError",
    "LeastWeightError",
    "MinMax",
    "MovingAverage",
    "Percentile",
    "Range",
    "WeightRange",
    "WholeWeight",
]
