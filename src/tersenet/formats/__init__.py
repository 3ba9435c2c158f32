"""Matrices that are small in memory and quick to multiply: NumPy and Numba only.

The paper's formats (`Dense`, `Csr`, `Cer`, `Cser`) are counted in entries, bits, operations and
modelled energy, and have a bit-packed file. The fast ones (`Even`, `Packed`, `Grouped`, `Tiled`,
`Sliced`, `Panels`, `Signs`) keep weights in 1 to 5 bits while they multiply. `best_format` chooses.
A `Network` runs on them, from a file that is mapped and never decoded.
"""

from tersenet.formats.accounting import Access, Operations, StoredArray, energy_pj
from tersenet.formats.cer import Cer, Cser
from tersenet.formats.choice import Choice, best_format, predicted_us, smallest_format
from tersenet.formats.classic import Csr, Dense
from tersenet.formats.even import Even
from tersenet.formats.fast import FastMatrix
from tersenet.formats.files import from_bytes, to_bytes
from tersenet.formats.grouped import Grouped
from tersenet.formats.levels import Levels
from tersenet.formats.matrix import CountedMatrix, Matrix
from tersenet.formats.network import Network, Step
from tersenet.formats.network_file import load_network, network_bytes, read_network
from tersenet.formats.packed import Packed
from tersenet.formats.panels import Panels
from tersenet.formats.signs import Signs
from tersenet.formats.sliced import Sliced
from tersenet.formats.tiled import Tiled

__all__ = [
    "Access",
    "Cer",
    "Choice",
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
    "Step",
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
