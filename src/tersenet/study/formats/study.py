"""What CER and CSER cost beside dense storage and CSR: storage, operations, time and energy.

The comparison of Wiedemann, Müller, Samek, IEEE TNNLS 2019, arXiv:1805.10692, on the layer shapes
of four networks and over entropy and sparsity. Weights are drawn: Laplace, the smallest cut, the
rest on an even grid. Storage and operations are counted, on a sample of rows; time is measured on
these rows; energy is a model of a 45 nm chip.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from tersenet.core.findings import Findings
from tersenet.core.types import Tick, no_tick
from tersenet.formats import (
    Cer,
    CountedMatrix,
    Cser,
    Csr,
    Dense,
    Levels,
    Matrix,
    Operations,
    best_format,
    energy_pj,
)
from tersenet.formats.levels import index_bits
from tersenet.study.folder import open_study
from tersenet.study.formats.findings import make_findings
from tersenet.study.formats.networks import NETWORKS, MatrixLayer
from tersenet.study.one_thread import one_thread
from tersenet.study.registry import STUDIES

__all__ = ["SETTINGS", "Setting", "count_costs", "draw_levels", "scale_counts", "study_formats"]


SAMPLE: Final = 1 << 18
"""Elements of a layer that are drawn, at least 16 rows of it; the rest is like them."""
GRID_SHAPE: Final = (256, 2048)
GRID_BITS: Final = (2, 3, 4, 5, 6, 7, 8)
GRID_ZEROS: Final = (0.0, 0.5, 0.9, 0.99)
_KINDS: Final[dict[str, type[CountedMatrix]]] = {
    "dense": Dense,
    "CSR": Csr,
    "CER": Cer,
    "CSER": Cser,
}


@final
@dataclass(frozen=True, kw_only=True)
class Setting:
    """Bits and zeros of the layers of a network."""

    name: str
    networks: tuple[str, ...] = tuple(NETWORKS)
    bits: tuple[int, ...]
    """One for all layers, or one by layer."""
    zeros: tuple[float, ...]

    def of(self, layer: int) -> tuple[int, float]:
        """Bits and zeros of a layer by its number."""
        return self.bits[layer % len(self.bits)], self.zeros[layer % len(self.zeros)]


SETTINGS: Final = (
    Setting(
        # Han, Mao, Dally, "Deep Compression", 2015, arXiv:1510.00149, table 4.
        name="AlexNet as in Deep Compression",
        networks=("AlexNet",),
        bits=(8, 8, 8, 8, 8, 5, 5, 5),
        zeros=(0.16, 0.62, 0.65, 0.63, 0.63, 0.91, 0.91, 0.75),
    ),
    Setting(name="7 bits, not pruned", bits=(7,), zeros=(0.0,)),
    Setting(name="5 bits, 90 % zeros", bits=(5,), zeros=(0.9,)),
    Setting(name="8 bits, 90 % zeros", bits=(8,), zeros=(0.9,)),
)


@STUDIES.register("formats")
def study_formats(
    *,
    folder: Path,
    tick: Tick = no_tick,
    settings: Sequence[Setting] = SETTINGS,
    networks: Mapping[str, Sequence[MatrixLayer]] = NETWORKS,
) -> Findings:
    """Dense, CSR, CER, CSER: storage, operations, time and modelled energy of four networks.

    Each layer is counted, timed and modelled in every format, and each point kept at once.

    Args:
        folder: Of the study; goes on with what it holds.
        tick: Told what is measured, its number, and of how many.
        settings: Bits and zeros.
        networks: Layers by name.
    """
    plan = [
        (setting, network, number, layer)
        for setting in settings
        for network in setting.networks
        if network in networks
        for number, layer in enumerate(networks[network])
    ]
    header = {"settings": [setting.name for setting in settings], "networks": sorted(networks)}
    rows: list[dict[str, Any]] = []
    with open_study(folder, name="formats", settings=header) as study, one_thread() as call:
        total = len(plan) + len(GRID_BITS) * len(GRID_ZEROS)
        for at, (setting, network, number, layer) in enumerate(plan):
            bits, zeros = setting.of(number)
            # Layers of one shape are measured once.
            key = f"{layer.rows}x{layer.columns}, {bits} bits, {100 * zeros:g} % zeros"
            tick(key, at, total)
            found = study.point(
                key, partial(call, count_costs, layer.rows, layer.columns, bits, zeros)
            )
            where = {"setting": setting.name, "network": network, "positions": layer.positions}
            rows.append({**where, **found})
        grid = []
        for zeros in GRID_ZEROS:
            for bits in GRID_BITS:
                key = f"grid, {bits} bits, {100 * zeros:g} % zeros"
                tick(key, len(plan) + len(grid), total)
                found = study.point(key, partial(call, count_costs, *GRID_SHAPE, bits, zeros))
                grid.append({"bits": bits, "zeros": zeros, **found})
    return make_findings(rows, grid)


def count_costs(rows: int, columns: int, bits: int, zeros: float) -> dict[str, Any]:
    """One product of one layer, by format: bits stored, operations, energy and milliseconds."""
    sample = min(rows, max(16, SAMPLE // columns))
    levels = draw_levels(sample, columns, bits, zeros)
    factor = rows / sample
    found: dict[str, Any] = {}
    for name, kind in _KINDS.items():
        encoded = kind.encode(levels)
        assert isinstance(encoded, CountedMatrix)
        stored, operations = scale_counts(encoded, factor)
        found[name] = {
            "storage": stored,
            "operations": operations.total,
            "energy": energy_pj(operations),
        }
    read = Levels.of(levels.astype(np.float32))
    held: dict[str, Matrix] = {name: kind.encode(read) for name, kind in _KINDS.items()}
    held["chosen"] = best_format(read, measure=False).matrix
    for name, ms in time_products(held).items():
        found.setdefault(name, {})["time"] = ms * factor
    found["entropy"] = read.entropy_bits
    found["elements"] = rows * columns
    return found


def draw_levels(rows: int, columns: int, bits: int, zeros: float) -> NDArray[np.int8]:
    """Laplace weights, the smallest cut, the rest on 2**bits - 1 even levels."""
    weights = np.random.default_rng(0).laplace(size=(rows, columns))
    top = 2 ** (bits - 1) - 1
    sizes = np.abs(weights)
    levels = np.clip(np.rint(weights / np.quantile(sizes, 0.9995) * top), -top, top)
    return (levels * (sizes > np.quantile(sizes, zeros) if zeros else 1)).astype(np.int8)


def scale_counts(matrix: CountedMatrix, factor: float) -> tuple[float, Operations]:
    """Bits and operations of a matrix of `factor` times as many rows of this kind.

    All arrays grow with the rows but Ω; positions take more bits in longer arrays.
    """
    own = {array.name: array for array in matrix.arrays()}
    # An array of positions has one entry more than what it points from.
    more = {name: 1 if name.endswith("Ptr") else 0 for name in own}
    entries = {
        name: array.entries if name == "Ω" else (array.entries - more[name]) * factor + more[name]
        for name, array in own.items()
    }
    things = {"ΩPtr": entries.get("colI", 0) + 1}
    things["rowPtr"] = entries.get("ΩPtr", things["ΩPtr"])
    wide = {
        name: index_bits(round(things[name])) if name in things else array.bits_each
        for name, array in own.items()
    }
    sizes = {name: entries[name] * wide[name] for name in own}
    operations = matrix.operations()
    y = operations.written
    return sum(sizes.values()), replace(
        operations,
        reads=tuple(
            replace(
                access,
                count=round(access.count * factor),
                bits_each=wide.get(access.array, access.bits_each),
                array_bits=round(sizes.get(access.array, access.array_bits)),
            )
            for access in operations.reads
        ),
        multiplications=round(operations.multiplications * factor),
        additions=round(operations.additions * factor),
        written=replace(y, count=round(y.count * factor), array_bits=round(y.array_bits * factor)),
    )


def time_products(matrices: Mapping[str, Matrix], *, turns: int = 9) -> dict[str, float]:
    """Median milliseconds of a product with one vector, in turns."""
    columns = next(iter(matrices.values())).shape[1]
    x = np.random.default_rng(1).standard_normal(columns).astype(np.float32)
    samples: dict[str, list[float]] = {name: [] for name in matrices}
    for turn in range(turns + 1):  # the first one compiles
        for name, matrix in matrices.items():
            _ = matrix @ x
            start = time.perf_counter()
            _ = matrix @ x
            if turn:
                samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(found)) for name, found in samples.items()}
