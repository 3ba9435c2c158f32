"""Repair: winning back without labels what a removal cost."""

from tersenet.repair.base import RepairPlan
from tersenet.repair.batch_norm import BatchNorm
from tersenet.repair.denormals import flush_denormals_
from tersenet.repair.least_squares import LeastSquares
from tersenet.repair.shift import Shift

__all__ = ["BatchNorm", "LeastSquares", "RepairPlan", "Shift", "flush_denormals_"]
