"""Matrices that are small in memory and quick to multiply: NumPy and Numba only."""

from tersenet.formats.accounting import Access, Operations, StoredArray, energy_pj
from tersenet.formats.cer import Cer, Cser
from tersenet.formats.classic import Csr, Dense
from tersenet.formats.levels import Levels
from tersenet.formats.matrix import CountedMatrix, Matrix

__all__ = [
    "Access",
    "Cer",
    "CountedMatrix",
    "Cser",
    "Csr",
    "Dense",
    "Levels",
    "Matrix",
    "Operations",
    "StoredArray",
    "energy_pj",
]
