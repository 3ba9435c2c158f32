"""Our matrix formats against the fastest dense and sparse products there are.

    python benchmarks/formats.py
    python benchmarks/formats.py --keep work/formats --json found.json
    python benchmarks/formats.py --quick --json found.json

With `--keep FOLDER` each part is kept there once it is measured, and a run that was cut off goes
on; what is kept is of one machine. The last lines say of each target whether it is met.

Layers are trained on Fashion-MNIST, pruned by magnitude, trained on, and rounded to a few bits;
so is the shipped VGG-small. The shipped networks run whole from their file, in a process without
PyTorch for what memory they need.
Everything runs on one thread and in turns, each turn a few calls; a ratio is the median of the
turns' ratios. Peers: NumPy's and PyTorch's dense float32, SciPy's and PyTorch's CSR and BSR.
The floor is the time to read as many bytes as the format streams; for it, both go through copies
that together fill the last-level cache three times, so that all weights come from memory.
"""

import os

# Before the libraries are loaded: they read it once.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from convention import Figure, arguments, publish
from format_networks import measure_network
from format_races import (
    add_best,
    against_peers,
    measure_dense,
    measure_sparse,
    peers,
    product,
)
from pruned_layers import Network, rounded, train
from shipped_networks import SHIPPED, accuracy, layers, load, pruned

from tersenet.errors import TersenetError
from tersenet.formats import Levels, Signs, smallest_format
from tersenet.formats.lanes import INSTRUCTIONS
from tersenet.study import StudyFolder, open_study

FULL: Final = ((1024, 1024), (4096, 4096), (4096, 25088))
QUICK: Final = ((1024, 1024), (2048, 4096))
BITS8_ELEMENTS: Final = 1 << 24
"""Layers up to this size are measured in 8 bits, too."""


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
                for name in SHIPPED:
                    measure_shipped(study, name, figures, notes, quick=options.quick)
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
        "≥ 90 % zeros, 5 bits, beyond the last-level cache: ≤ 2× its floor": (
            "time over the floor",
            2.0,
        ),
        "whole networks: within 1e-5 of dense": ("largest difference", 1e-5),
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


def measure_shipped(
    study: StudyFolder, name: str, figures: list[Figure], notes: list[str], *, quick: bool
) -> None:
    """A whole network from its file, and where it is pruned its largest layer alone."""
    turns = 5 if quick else 15

    def whole(figures: list[Figure], notes: list[str]) -> None:
        model = load(name)
        if name != "VGG-small":
            measure_network(name, model, turns, figures, notes)
            return
        few = pruned(model, 0.9, bits=5, steps=10 if quick else 120)
        told = f"{accuracy(model):.1%} dense, {accuracy(few):.1%} with 90 % zeros in 5 bits"
        notes.append(f"{name}: accuracy {told}")
        measure_network(f"{name}, 90 % zeros, 5 bits", few, turns, figures, notes)
        weight = max(layers(few).values(), key=torch.Tensor.numel)
        levels = Levels.of(weight.detach().flatten(1).numpy())
        shape = f"{levels.shape[0]}×{levels.shape[1]}"
        layer = f"{name}'s {shape}, {levels.zero_share:.0%} zeros, 5 bits"
        measure_sparse(layer, levels, turns, figures, target=None)

    found = study.point(name, lambda: measured(whole))
    figures += [Figure(**one) for one in found["figures"]]
    notes += found["notes"]


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
        study.point(keys[0], lambda: measured(partial(measure_few_zeros, name, network, turns)))
        for key, zeros in zip(keys[1:], shares, strict=True):
            network.prune(zeros, steps=steps // 3)
            study.point(key, lambda: measured(partial(measure_many_zeros, name, network, turns)))
    for key in keys:
        found = study.point(key, dict)
        figures += [Figure(**one) for one in found["figures"]]
        notes += found["notes"]


def measured(part: Callable[[list[Figure], list[str]], None]) -> dict[str, Any]:
    """Figures and notes of one part, as a journal keeps them."""
    figures: list[Figure] = []
    notes: list[str] = []
    part(figures, notes)
    return {"figures": [asdict(one) for one in figures], "notes": notes}


def measure_many_zeros(
    name: str, network: Network, turns: int, figures: list[Figure], notes: list[str]
) -> None:
    """The layer as it is pruned now, in 5 bits and, if it is not of the largest, in 8."""
    weights = rounded(network.weights(), bits=5)
    accuracy = network.accuracy(weights)
    levels = Levels.of(weights)
    notes.append(
        f"{name}: {levels.zero_share:.1%} zeros, {len(levels.values)} values,"
        f" {levels.entropy_bits:.2f} bits of entropy: accuracy {accuracy:.1%},"
        f" smallest file {smallest_format(levels).bits / levels.ranks.size:.2f} bits an element"
    )
    measure_sparse(
        f"{name}, {levels.zero_share:.0%} zeros, 5 bits", levels, turns, figures, target=2.0
    )
    if weights.size <= BITS8_ELEMENTS:
        more = Levels.of(rounded(network.weights(), bits=8))
        name = f"{name}, {more.zero_share:.0%} zeros, 8 bits"
        measure_sparse(name, more, turns, figures, target=None)


def measure_few_zeros(
    name: str, network: Network, turns: int, figures: list[Figure], notes: list[str]
) -> None:
    """The layer before it is pruned: in 4 bits, ternary and binary."""
    dense_weights = network.weights()
    notes.append(f"{name}: accuracy {network.accuracy():.1%} dense")
    four = rounded(dense_weights, bits=4)
    measure_dense(f"{name}, 4 bits dense", Levels.of(four), turns, figures, target=2.0)
    if four.size <= BITS8_ELEMENTS:
        eight = Levels.of(rounded(dense_weights, bits=8))
        measure_dense(f"{name}, 8 bits dense", eight, turns, figures, target=None)
    ternary = np.sign(four).astype(np.float32)
    measure_dense(f"{name}, ternary", Levels.of(ternary), turns, figures, target=None)
    binary = np.where(dense_weights < 0, -1, 1).astype(np.float32)
    measure_dense(f"{name}, binary", Levels.of(binary), turns, figures, target=None)
    x = np.where(np.arange(binary.shape[1]) % 3 == 0, -1, 1).astype(np.float32)
    signs = {"Signs": product(Signs.encode(binary), x)}
    race = against_peers(signs, peers(binary, x, dense_only=True), turns)
    add_best(f"{name}, binary × binary", race, figures, target=None)


if __name__ == "__main__":
    sys.exit(main())
