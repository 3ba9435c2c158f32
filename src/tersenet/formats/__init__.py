"""Matrices that are small in memory and quick to multiply: NumPy and Numba only.

A matrix becomes `Levels`, its distinct values by falling frequency; `encode` of a format turns
them into a `Matrix`, which multiplies, and says what it takes (`accounting`).

    paper      Dense, Csr, Cer, Cser: counted in operations and energy, with a bit-packed file
    fast       Even, Packed, Grouped, Tiled, Sliced, Panels, Signs: weights of 1 to 8 bits
    lanes      registers of sixteen lanes inside Numba: what the fast formats are written in
    choice     best_format: predicted from the levels, decided by the clock; smallest_format
    network    a whole network on such matrices, from a file that is mapped and never decoded
"""

from tersenet.formats.accounting import Access, Operations, StoredArray, energy_pj
from tersenet.formats.choice import FormatChoice, best_format, predicted_us, smallest_format
from tersenet.formats.fast.base import FastMatrix
from tersenet.formats.fast.even import Even
from tersenet.formats.fast.grouped import Grouped
from tersenet.formats.fast.packed import Packed
from tersenet.formats.fast.panels import Panels
from tersenet.formats.fast.signs import Signs
from tersenet.formats.fast.sliced import Sliced
from tersenet.formats.fast.tiled import Tiled
from tersenet.formats.levels import Levels
from tersenet.formats.matrix import CountedMatrix, Matrix
from tersenet.formats.network.file import load_network, network_bytes, read_network
from tersenet.formats.network.running import Network, NetworkStep
from tersenet.formats.paper.cer import Cer, Cser
from tersenet.formats.paper.classic import Csr, Dense
from tersenet.formats.paper.files import from_bytes, to_bytes

__all__ = [
    "Access",
    "Cer",
    "FormatChoice",
    "CountedMatrix",
    "Cser",
    "Csr",
    "Dense",
    "Even",
    "FastMatrix",
    "Grouped",
    "Levels",
    "Matrix",
    "Network",
    "Operations",
    "Packed",
    "Panels",
    "Signs",
    "Sliced",
    "NetworkStep",
    "StoredArray",
    "Tiled",
    "best_format",
    "energy_pj",
    "from_bytes",
    "load_network",
    "network_bytes",
    "predicted_us",
    "read_network",
    "smallest_format",
    "to_bytes",
]
