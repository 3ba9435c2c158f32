"""Repair: winning back without labels what a removal cost.

In flows the network after a removal, with the edits of it and, for most, calibration data. Each
repair is a method of a recipe that changes values and no structure: `batch_norm` measures
statistics anew, `least_squares` refits each layer, `shift` adds constants of what went to biases.
`denormals` is no method: it cleans weights that slow processors down.
"""

from tersenet.repair.base import RepairPlan
from tersenet.repair.batch_norm import BatchNorm
from tersenet.repair.denormals import flush_denormals_
from tersenet.repair.least_squares import LeastSquares
from tersenet.repair.shift import Shift

__all__ = ["BatchNorm", "LeastSquares", "RepairPlan", "Shift", "flush_denormals_"]
