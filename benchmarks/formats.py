"""Our matrix formats against the fastest dense and sparse products there are.

    python benchmarks/formats.py
    python benchmarks/formats.py --keep work/formats --json found.json
    python benchmarks/formats.py --quick --json found.json

With `--keep FOLDER` each part is kept there once it is measured, and a run that was cut off goes
on; what is kept is of one machine. The last lines say of each target whether it is met.

Layers are trained on Fashion-MNIST, pruned by magnitude, trained on, and rounded to a few bits.
Everything runs on one thread and in turns, each turn a few calls; a ratio is the median of the
turns' ratios. Peers: NumPy's and PyTorch's dense float32, SciPy's and PyTorch's CSR and BSR.
The floor is the time to read as many bytes as the format streams; for it, product and read both
start from a cache that other data has just filled, so that all comes from memory.
"""

import os

# Before the libraries are loaded: they read it once.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import scipy.sparse
import torch
from convention import Figure, arguments, publish
from numba import njit
from pruned_layers import Network, rounded, train

from tersenet.errors import TersenetError
from tersenet.formats import (
    Dense,
    FastMatrix,
    Levels,
    Matrix,
    Signs,
    best_format,
    predicted_us,
    smallest_format,
)
from tersenet.formats.choice import FAST
from tersenet.formats.simd import INSTRUCTIONS
from tersenet.study import StudyFolder, open_study

Product = Callable[[], Any]

FULL: Final = ((1024, 1024), (4096, 4096), (4096, 25088))
QUICK: Final = ((1024, 1024), (2048, 4096))
CACHE_BYTES: Final = 32 << 20
"""The last-level cache: dense float32 matrices above this have a target for the floor."""
FLUSH: Final = np.ones(64 << 20, np.uint64)[: 24 << 20]  # 192 MiB that push all else out


@dataclass(frozen=True, kw_only=True)
class Race:
    """Who was fastest on either side, and by how much."""

    best: str
    rival: str
    ratio: float
    """The rival's time over ours."""
    ms: float
    """Ours."""


def main() -> int:
    """Measures and prints; returns the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="go on with what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Sparse (CSR|BSR)", category=UserWarning)
    figures: list[Figure] = []
    notes = [
        f"kernels compiled for {INSTRUCTIONS}; a loaded machine's figures are not to be quoted"
    ]
    settings = {"quick": options.quick, "instructions": INSTRUCTIONS}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            folder = options.keep or Path(scratch)
            with open_study(folder, name="benchmark-formats", settings=settings) as study:
                for shape in QUICK if options.quick else FULL:
                    measure_layer(study, shape, figures, notes, quick=options.quick)
        except TersenetError as error:
            print(error, file=sys.stderr)
            return 1
    notes += verdicts(figures)
    publish("matrix formats on one thread", figures, json_file=options.json, notes=notes)
    return 0


def verdicts(figures: Sequence[Figure]) -> list[str]:
    """A line for each target: how often it is met, and where it is not."""
    kinds = {
        "≥ 90 % zeros, 5 bits, batch 1: ≥ 2× the fastest peer": ("5 bits, batch 1: speed-up", 2.0),
        "4 bits dense, batch 1: ≥ 2× dense float32": ("4 bits dense, batch 1: speed-up", 2.0),
        "beyond the last-level cache: ≤ 2× the time to read its bytes": ("over the floor", 2.0),
        "chosen format: ≤ 1.05× dense storage's time": ("chosen format's time", 1.05),
    }
    lines = []
    for title, (ending, target) in kinds.items():
        due = [one for one in figures if ending in one.name and one.target == target]
        missed = [f"{one.name.split(':')[0]} ({one.value:.2f}×)" for one in due if not one.met]
        held = f"met in {len(due) - len(missed)} of {len(due)}"
        lines.append(f"TARGET {title}: {held}{'; not: ' if missed else ''}{', '.join(missed)}")
    batches = [one.value or 0 for one in figures if one.name.endswith("batch 64: speed-up")]
    won = sum(value > 1 for value in batches)
    return [*lines, f"batch 64, no target: faster than the fastest peer in {won} of {len(batches)}"]


def measure_layer(
    study: StudyFolder,
    shape: tuple[int, int],
    figures: list[Figure],
    notes: list[str],
    *,
    quick: bool,
) -> None:
    """All figures of one layer, sparse and dense; what the study holds is not measured again."""
    name = f"{shape[0]}×{shape[1]}"
    turns = 5 if quick else 15
    # The largest layer's steps take a second each; it learns as much from fewer.
    steps = 20 if quick else 120 if shape[0] * shape[1] < 1 << 25 else 40
    shares = (0.9, 0.99) if quick else (0.9, 0.95, 0.99)
    keys = [f"{name}, dense", *(f"{name}, {zeros:.0%} zeros" for zeros in shares)]
    if not all(key in study for key in keys):
        network = train(shape, steps=steps)
        study.point(keys[0], lambda: measured(measure_few_zeros, name, network, turns))
        for key, zeros in zip(keys[1:], shares, strict=True):
            network.prune(zeros, steps=steps // 3)
            study.point(key, lambda: measured(measure_many_zeros, name, network, turns))
    for key in keys:
        found = study.point(key, dict)
        figures += [Figure(**one) for one in found["figures"]]
        notes += found["notes"]


def measured(part: Callable[..., None], name: str, network: Network, turns: int) -> dict[str, Any]:
    """Figures and notes of one part of a layer, as a journal keeps them."""
    figures: list[Figure] = []
    notes: list[str] = []
    part(name, network, turns, figures, notes)
    return {"figures": [asdict(one) for one in figures], "notes": notes}


def measure_many_zeros(
    name: str, network: Network, turns: int, figures: list[Figure], notes: list[str]
) -> None:
    """The layer as it is pruned now, in 5 bits."""
    weights = rounded(network.weights(), bits=5)
    accuracy = network.accuracy(weights)
    levels = Levels.of(weights)
    notes.append(
        f"{name}: {levels.zero_share:.1%} zeros, {len(levels.values)} values,"
        f" {levels.entropy_bits:.2f} bits of entropy: accuracy {accuracy:.1%},"
        f" smallest file {smallest_format(levels).bits / levels.ranks.size:.2f} bits an element"
    )
    measure_sparse(f"{name}, {levels.zero_share:.0%} zeros, 5 bits", levels, turns, figures)


def measure_few_zeros(
    name: str, network: Network, turns: int, figures: list[Figure], notes: list[str]
) -> None:
    """The layer before it is pruned: in 4 bits, ternary and binary."""
    dense_weights = network.weights()
    notes.append(f"{name}: accuracy {network.accuracy():.1%} dense")
    four = rounded(dense_weights, bits=4)
    measure_dense(f"{name}, 4 bits dense", Levels.of(four), turns, figures, target=2.0)
    ternary = np.sign(four).astype(np.float32)
    measure_dense(f"{name}, ternary", Levels.of(ternary), turns, figures, target=None)
    binary = np.where(dense_weights < 0, -1, 1).astype(np.float32)
    measure_dense(f"{name}, binary", Levels.of(binary), turns, figures, target=None)
    x = np.where(np.arange(binary.shape[1]) % 3 == 0, -1, 1).astype(np.float32)
    signs = {"Signs": product(Signs.encode(binary), x)}
    race = against_peers(signs, peers(binary, x, dense_only=True), turns)
    add_best(f"{name}, binary × binary", race, figures, target=None)


def measure_sparse(name: str, levels: Levels, turns: int, figures: list[Figure]) -> None:
    """Batch 1 against all peers and the floor, batch 64 against all peers, and the choice."""
    weights = levels.dense()
    for batch, target in ((1, 2.0), (64, None)):
        x = inputs(weights.shape[1], batch)
        ours = candidates(levels, batch)
        race = against_peers(
            {key: product(matrix, x) for key, matrix in ours.items()}, peers(weights, x), turns
        )
        best = add_best(f"{name}, batch {batch}", race, figures, target=target)
        if batch == 1:
            add_floor(name, ours[best], x, turns, figures)
        add_choice(f"{name}, batch {batch}", levels, batch, x, turns, figures)


def measure_dense(
    name: str, levels: Levels, turns: int, figures: list[Figure], *, target: float | None
) -> None:
    """Batch 1 of a matrix that is not sparse, against dense products."""
    weights = levels.dense()
    x = inputs(weights.shape[1], 1)
    ours = candidates(levels, 1)
    race = against_peers(
        {key: product(matrix, x) for key, matrix in ours.items()},
        peers(weights, x, dense_only=True),
        turns,
    )
    best = add_best(f"{name}, batch 1", race, figures, target=target)
    add_floor(name, ours[best], x, turns, figures)


def candidates(levels: Levels, batch: int) -> dict[str, FastMatrix]:
    """The two formats predicted fastest."""
    predicted = predicted_us(levels, batch)
    kinds = {kind.__name__: kind for kind in FAST}
    order = sorted((key for key in predicted if key in kinds), key=lambda key: predicted[key])
    return {key: kinds[key].encode(levels) for key in order[:2]}


def peers(weights: np.ndarray, x: np.ndarray, *, dense_only: bool = False) -> dict[str, Product]:
    """What others offer for the same product."""
    tensor, operand = torch.from_numpy(weights), torch.from_numpy(x)
    found: dict[str, Product] = {
        "NumPy dense": lambda: weights @ x,
        "PyTorch dense": lambda: tensor @ operand,
    }
    if dense_only:
        return found
    csr = scipy.sparse.csr_matrix(weights)
    bsr = csr.tobsr((4, 4))
    torch_csr = tensor.to_sparse_csr()
    columns = operand if operand.ndim == 2 else operand[:, None]
    torch_bsr = tensor.to_sparse_bsr((16, 16))
    return found | {
        "SciPy CSR": lambda: csr @ x,
        "SciPy BSR 4×4": lambda: bsr @ x,
        "PyTorch CSR": lambda: torch_csr @ operand,
        "PyTorch BSR 16×16": lambda: torch_bsr @ columns,
    }


def against_peers(ours: Mapping[str, Product], others: Mapping[str, Product], turns: int) -> Race:
    """Our fastest format against the fastest peer."""
    samples = in_turns({**ours, **others}, turns)
    best = min(ours, key=lambda key: float(np.median(samples[key])))
    rival = min(others, key=lambda key: float(np.median(samples[key])))
    ratio = float(np.median(samples[rival] / samples[best]))
    return Race(best=best, rival=rival, ratio=ratio, ms=float(np.median(samples[best])) * 1e3)


def in_turns(products: Mapping[str, Product], turns: int) -> dict[str, np.ndarray]:
    """Seconds of each product in each turn: the median of some calls, caches warm for it."""
    samples: dict[str, list[float]] = {key: [] for key in products}
    calls = {}
    for key, call in products.items():
        call()  # compiles
        calls[key] = int(np.clip(2e-3 / max(timed(call), 1e-7), 2, 40))
    for _ in range(turns):
        for key, call in products.items():
            call()
            samples[key].append(float(np.median([timed(call) for _ in range(calls[key])])))
    return {key: np.array(values) for key, values in samples.items()}


def timed(call: Product) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def add_best(name: str, race: Race, figures: list[Figure], *, target: float | None) -> str:
    """Adds the speed-up of our fastest format; returns its name."""
    figures.append(
        Figure(
            name=f"{name}: speed-up",
            value=race.ratio,
            unit="×",
            against=race.rival,
            target=target,
            detail=f"{race.best}, {race.ms:.4g} ms",
        )
    )
    return race.best


def add_floor(
    name: str, matrix: FastMatrix, x: np.ndarray, turns: int, figures: list[Figure]
) -> None:
    """Adds the product's time over reading its bytes, both from memory."""
    stream = np.ones(max(1, matrix.stream_bytes // 8), np.uint64)
    read_all(stream)
    _ = matrix @ x
    ratios = []
    for _ in range(turns):
        read_all(FLUSH)
        ours = timed(lambda: matrix @ x)
        read_all(FLUSH)
        ratios.append(ours / timed(lambda: read_all(stream)))
    large = 4 * matrix.shape[0] * matrix.shape[1] > CACHE_BYTES
    bits = 8 * matrix.stream_bytes / (matrix.shape[0] * matrix.shape[1])
    figures.append(
        Figure(
            name=f"{name}: time over the floor",
            value=float(np.median(ratios)),
            unit="×",
            against="reading its bytes from memory",
            target=2.0 if large else None,
            at_most=True,
            detail=f"{type(matrix).__name__}, {bits:.2f} bits an element",
        )
    )


def add_choice(
    name: str, levels: Levels, batch: int, x: np.ndarray, turns: int, figures: list[Figure]
) -> None:
    """Adds the chosen format's time over dense storage's, measured anew."""
    choice = best_format(levels, batch)
    dense = Dense.encode(levels)
    samples = in_turns({"chosen": product(choice.matrix, x), "dense": product(dense, x)}, turns)
    likeliest = min(choice.predicted_us, key=lambda key: choice.predicted_us[key])
    figures.append(
        Figure(
            name=f"{name}: chosen format's time",
            value=float(np.median(samples["chosen"] / samples["dense"])),
            unit="×",
            against="dense storage",
            target=1.05,
            at_most=True,
            detail=f"{choice.name} chosen, {likeliest} predicted",
        )
    )


def product(matrix: Matrix, x: np.ndarray) -> Product:
    """The call that is timed."""
    return lambda: matrix @ x


def inputs(columns: int, batch: int) -> np.ndarray:
    """Activations after a ReLU: half of them zero."""
    x = np.random.default_rng(0).standard_normal((columns, batch)).astype(np.float32)
    x = np.maximum(x, 0)
    return x[:, 0].copy() if batch == 1 else x


@njit(cache=True)
def read_all(words):
    """The floor: every word is read once and added."""
    total = np.uint64(0)
    for at in range(len(words)):
        total += words[at]
    return total


if __name__ == "__main__":
    sys.exit(main())
